"""Sequence models: networks from a feature sequence to class scores and an embedding."""
