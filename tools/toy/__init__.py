"""Training of the embedded models (comem/toy/weights)."""
