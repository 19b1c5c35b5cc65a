"""How memories reach a reader that is not changed: the rows of `INJECTIONS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from comem.backbones.base import Backbone, Injection
from comem.backbones.positions import free_ids
from comem.memory.encoder import MemoryEncoder
from comem.memory.injection.prefix import PREFIX, Prefix
from comem.memory.settings import LAYOUTS
from comem.registry import Registry

#: A row makes the injection for a backbone, and for the encoder in use, if there is one.
InjectionRow = Callable[[Backbone, MemoryEncoder | None], Injection]


def prefix(backbone: Backbone, encoder: MemoryEncoder | None = None) -> Prefix:
    """The soft prefix, with ids that no text of the backbone's tokenizer yields."""
    if not backbone.spec.soft_prefix:
        return PREFIX
    return Prefix(tuple(free_ids(backbone.model, backbone.processor)))


def _keys_values(backbone: Backbone, encoder: MemoryEncoder | None = None) -> Injection:
    from comem.memory.injection.keys_values import KeysValues

    return KeysValues()


def _authors(layout: str, backbone: Backbone, encoder: Any = None) -> Injection:
    """The authors' layouts; ValueError without an encoder, or for a reader that they are not for."""
    from comem.memory.injection.authors import AuthorsLayout

    if encoder is None:
        raise ValueError(
            f"question layout {layout!r} reads the question with the encoder: give --encoder DIR"
        )
    made = AuthorsLayout(encoder, layout, prefix(backbone))
    made.reader(backbone)
    return made


INJECTIONS: Registry[InjectionRow] = Registry(
    "injection",
    {
        "prefix": prefix,
        "keys_values": _keys_values,
        **{layout: partial(_authors, layout) for layout in LAYOUTS},
    },
)

__all__ = ["INJECTIONS", "LAYOUTS", "PREFIX", "Injection", "InjectionRow", "Prefix", "prefix"]
