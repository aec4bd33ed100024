"""The command line's flags, parsing and error messages."""
