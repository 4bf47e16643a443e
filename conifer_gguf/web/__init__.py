"""The Flask application: pages and the OpenAI-compatible API."""
