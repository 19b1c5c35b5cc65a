"""A benchmark's questions answered in a mode, into a run folder, scored and compared."""
