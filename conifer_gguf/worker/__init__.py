"""The engine process and what generates text in it or in-process."""
