"""The tracks that extraction keeps of a clip, in the order in which they are listed."""

FRAMES = "frames"
FLOW = "flow"
SOUND = "sound"

TRACKS: tuple[str, ...] = (FRAMES, FLOW, SOUND)
