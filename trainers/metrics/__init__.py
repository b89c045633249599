"""Measures, accumulators, calibration and significance."""
