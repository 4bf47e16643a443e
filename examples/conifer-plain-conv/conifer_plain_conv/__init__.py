"""A kernel plugin; plugin.toml says which. Nothing imports this module: it marks the folder as a package."""
