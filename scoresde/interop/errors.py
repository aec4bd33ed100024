"""The error of this room."""


class ConvertError(ValueError):
    """A file, or a config, that cannot be converted; the message names it and says why."""
