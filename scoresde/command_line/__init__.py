"""Parts of the command line: commands and their flags, parsing, exit codes, signals.

`scoresde.cli` puts them together.
"""
