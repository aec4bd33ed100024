"""Config files: loading, overrides, and the objects that their nodes name."""
