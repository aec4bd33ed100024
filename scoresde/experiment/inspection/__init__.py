"""`scoresde inspect`: a description of data, and a first config for it."""
