"""The streams a video is split into, in the order in which they are always listed."""

SPATIAL = "spatial"
MOTION = "motion"
AUDIO = "audio"

STREAMS: tuple[str, ...] = (SPATIAL, MOTION, AUDIO)
