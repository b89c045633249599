"""Systems: one file per system, a function from settings to a tuple of steps."""
