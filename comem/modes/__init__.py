"""The registry of modes: ways to answer a question with or without retrieved items."""

from __future__ import annotations

from collections.abc import Callable

from comem.memory.settings import KVSettings
from comem.modes.base import Ask, Mode, ModeSettings
from comem.registry import Registry

#: A row makes the mode of a backbone and `ModeSettings`, or settings by name; a class of modes is one.
MODES: Registry[Callable[..., Mode]] = Registry(
    "mode",
    {
        "baseline": "comem.modes.baseline:BaselineMode",
        "rag": "comem.modes.rag:RagMode",
        "comem": "comem.modes.comem:ComemMode",
        "hybrid": "comem.modes.hybrid:HybridMode",
        "video_memory": "comem.modes.video_memory:VideoMemoryMode",
        "vlm_as_memory": "comem.modes.vlm_as_memory:VlmAsMemoryMode",
    },
)

__all__ = ["MODES", "Ask", "KVSettings", "Mode", "ModeSettings"]
