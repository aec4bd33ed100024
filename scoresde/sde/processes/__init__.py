"""The processes, one file each."""
