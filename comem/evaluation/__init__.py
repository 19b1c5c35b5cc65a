"""Scorers: the official definition of each benchmark, without torch."""
