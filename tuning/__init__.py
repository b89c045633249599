"""Searches of hyperparameters by Ray Tune."""
