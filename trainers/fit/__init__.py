"""Fitting: the loop, Ray Train, optimizers and folds."""
