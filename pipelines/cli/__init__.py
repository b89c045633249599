"""The command line: options, settings, presets, and how a job starts."""
