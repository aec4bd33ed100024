"""Config files: loading, overrides from the command line, and the objects that a config describes."""
