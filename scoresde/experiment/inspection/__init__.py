"""A look at a data set, and the config that suits it."""
