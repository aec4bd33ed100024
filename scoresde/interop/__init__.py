"""File formats and networks of other projects. No other part of the library depends on them."""
