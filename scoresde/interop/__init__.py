"""Other projects' files: the only room that knows them."""
