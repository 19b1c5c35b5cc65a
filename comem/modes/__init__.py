"""The registry of modes: ways to answer a question with or without retrieved items."""

from __future__ import annotations

from collections.abc import Callable

from comem.memory.injection.keys_values import KVSettings
from comem.modes.base import Ask, Mode, ModeSettings
from comem.modes.baseline import BaselineMode
from comem.modes.comem import ComemMode
from comem.modes.rag import RagMode
from comem.modes.vlm_as_memory import VlmAsMemoryMode
from comem.registry import Registry

#: A row makes the mode of a backbone and `ModeSettings`, or settings by name; a class of modes is one.
MODES: Registry[Callable[..., Mode]] = Registry(
    "mode", {mode.name: mode for mode in (BaselineMode, RagMode, ComemMode, VlmAsMemoryMode)}
)

__all__ = ["MODES", "Ask", "ComemMode", "KVSettings", "Mode", "ModeSettings", "RagMode"]
