"""Encoders: networks from one sample to a feature vector."""
