"""One file per architecture, found by listing this folder and by entry point; api.py is all that such a file imports."""
