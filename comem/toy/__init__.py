"""The embedded world: a procedural encyclopedia and the tiny models that were trained on it."""
