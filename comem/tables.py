"""The former name of `comem.registry`, until every table is a registry."""

from __future__ import annotations

from comem.registry import Registry as Table
from comem.registry import UnknownNameError, nearest

__all__ = ["Table", "UnknownNameError", "nearest"]
