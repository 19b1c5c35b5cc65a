"""Answering fast: packed prefill, slots for keys and values, one recorded step, work done ahead."""

from comem.engine.engine import Engine

__all__ = ["Engine"]
