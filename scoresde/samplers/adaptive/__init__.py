"""Solvers with adaptive steps: the probability flow, the reverse SDE."""
