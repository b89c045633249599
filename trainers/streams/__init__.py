"""Streams: how samples are cut from a clip's track."""
