"""The Runtime protocol, its two implementations, and the one place that chooses between them."""
