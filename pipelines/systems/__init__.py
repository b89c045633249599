"""Systems: one file each; a function from settings to a tuple of steps."""
