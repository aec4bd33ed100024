"""Predictor-corrector sampling: predictors, correctors, and the loop."""
