"""How memories reach a reader that is not changed: the rows of `INJECTIONS`."""

from __future__ import annotations

from collections.abc import Callable

from comem.backbones.base import Backbone, Injection
from comem.memory.encoder import MemoryEncoder
from comem.memory.injection.prefix import PREFIX, Prefix, prefix_for
from comem.memory.settings import LAYOUTS
from comem.registry import Registry

#: A row makes the injection for a backbone, and for the encoder in use, if there is one.
InjectionRow = Callable[[Backbone, MemoryEncoder | None], Injection]


INJECTIONS: Registry[InjectionRow] = Registry(
    "injection",
    {
        "prefix": "comem.memory.injection.prefix:prefix_for",
        "in_turn": "comem.memory.injection.in_turn:in_turn",
        "cross": "comem.memory.injection.cross:cross_for",
        "prefix_and_cross": "comem.memory.injection.cross:prefix_and_cross_for",
        "infix": "comem.memory.injection.infix:infix_for",
        "keys_values": "comem.memory.injection.keys_values:keys_values",
        "authors_llm": "comem.memory.injection.authors:authors_llm",
        "authors_llm_training": "comem.memory.injection.authors:authors_llm_training",
    },
)


__all__ = [
    "INJECTIONS",
    "LAYOUTS",
    "PREFIX",
    "Injection",
    "InjectionRow",
    "Prefix",
    "prefix_for",
]
