"""Media files: decoding of frames and sound, sampling, and codecs of artifacts."""
