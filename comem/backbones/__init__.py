"""Frozen models that read a question, with or without memory in front of it."""
