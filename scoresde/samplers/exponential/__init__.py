"""Exponential integrators: multistep and Runge-Kutta methods for any linear process."""
