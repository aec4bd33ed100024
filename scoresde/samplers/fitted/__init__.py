"""Multistep methods fitted to a model's own flow."""
