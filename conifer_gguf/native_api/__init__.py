"""All cffi lives here: ggml and the kernel plugins."""
