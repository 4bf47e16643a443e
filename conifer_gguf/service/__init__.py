"""What the CLI and the web share, with neither click nor Flask."""
