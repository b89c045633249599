"""The streams of Hybrid, in the order in which they are listed."""

from actors.tracks import FLOW, FRAMES, SOUND

SPATIAL = "spatial"
MOTION = "motion"
AUDIO = "audio"

STREAMS: tuple[str, ...] = (SPATIAL, MOTION, AUDIO)

TRACK_OF = {SPATIAL: FRAMES, MOTION: FLOW, AUDIO: SOUND}
"""Stream -> the track that its samples are cut from."""
