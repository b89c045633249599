"""Media files: decoding, sound, sampling and codecs."""
