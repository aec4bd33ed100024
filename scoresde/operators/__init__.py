"""Measurements y = A(x) of events, and their noise."""
