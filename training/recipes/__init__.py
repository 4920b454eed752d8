"""Training recipes as YAML, shipped with the package."""
