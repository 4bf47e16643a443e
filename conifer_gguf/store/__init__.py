"""What is known (the catalog), how it gets here (downloads), what is here (the library)."""
