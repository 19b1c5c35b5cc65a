"""The models behind a memory, loaded when first needed, and what a folder remembers of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.bank.forms import PLAIN_FORMS, Float32
from comem.retrieval.settings import DEFAULT_EMBEDDER
from comem.store.table import MemoryFolderError

if TYPE_CHECKING:
    from comem.backbones.base import Backbone, Injection
    from comem.memory.encoder import MemoryEncoder
    from comem.modes.base import Mode
    from comem.retrieval.embedder import Embedder
    from comem.store.decide import Decider

TOY, NONE = "toy", "none"
GIVEN = "given"  # by itself: no name that would load it again


class Models:
    """Backbone, encoder and embedder, each loaded once, when first needed.

    Args:
        backbone: a name or folder, or one that is loaded.
        encoder: the same; "none" for a memory that keeps no embeddings.
        embedder: the same.
        device: for what is loaded here.
    """

    def __init__(
        self, backbone: Backbone | str, encoder: MemoryEncoder | str, embedder: Embedder | str,
        device: str | None = None,
    ) -> None:  # fmt: skip
        self._backbone, self._encoder, self._embedder, self._device = backbone, encoder, embedder, device
        #: One thread at a time uses the models: encoder and reader may be the same weights.
        self.alone = threading.RLock()
        self._modes: dict[str, Mode] = {}

    @classmethod
    def choose(
        cls, backbone: Any, encoder: Any, embedder: Any, known: Mapping[str, str], device: str | None
    ) -> Models:
        """What was given; else what the folder was made with; else the embedded models.

        Raises:
            MemoryFolderError: an encoder or an embedder by another name than the folder was made with.
        """
        given = {"backbone": backbone, "encoder": encoder, "embedder": embedder}
        names = {name: _name(value) for name, value in given.items()}
        chosen_backbone = given["backbone"] or known.get("backbone") or TOY
        embedded = chosen_backbone == TOY
        default = {"encoder": TOY if embedded else NONE, "embedder": TOY if embedded else DEFAULT_EMBEDDER}
        for name in ("encoder", "embedder"):
            if (
                names[name]
                and known.get(name, GIVEN) != GIVEN
                and names[name] != known[name]
                and isinstance(given[name], str)
            ):
                raise MemoryFolderError(
                    f"this memory was made with {name} {known[name]!r}, not {names[name]!r}: leave {name} "
                    "out, or make a new folder and add the items to it (memory.export)"
                )
            given[name] = given[name] or known.get(name) or default[name]
        return cls(chosen_backbone, given["encoder"], given["embedder"], device)

    @cached_property
    def backbone(self) -> Backbone:
        """The reader, on the engine where that gives the same answers."""
        from comem.engine.engine import fast

        with self.alone:
            if isinstance(self._backbone, str):
                from comem.backbones.hf import load_backbone

                return fast(load_backbone(self._backbone, device=self._device))
            return fast(self._backbone)

    @cached_property
    def encoder(self) -> MemoryEncoder | None:
        """What makes memories; None where none are kept."""
        if self._encoder == NONE:
            return None
        if not isinstance(self._encoder, str):
            return self._encoder
        if self._encoder == GIVEN:
            raise MemoryFolderError(
                "this memory was made with an encoder that had no name: give it again (encoder=…)"
            )
        from comem.memory.encoder import load_encoder

        with self.alone:
            return load_encoder(self._encoder, self.backbone)

    @cached_property
    def embedder(self) -> Embedder:
        """What makes vectors to search by."""
        if not isinstance(self._embedder, str):
            return self._embedder
        from comem.retrieval.embedder import load_embedder

        return load_embedder(self._embedder, self._device)

    @cached_property
    def injection(self) -> Injection:
        """How vectors reach the reader."""
        from comem.memory.encoder import injection_name
        from comem.memory.injection import INJECTIONS

        return INJECTIONS[injection_name(self.encoder)](self.backbone, self.encoder)

    @cached_property
    def decider(self) -> Decider:
        """What answers typed questions."""
        from comem.store.decide import Decider

        return Decider(self.backbone, self.injection)

    @property
    def backbone_name(self) -> str:
        """Of the reader, without loading it."""
        return _name(self._backbone)

    @property
    def default_mode(self) -> str:
        """comem where memories are kept, else rag."""
        return "rag" if self._encoder == NONE else "comem"

    def mode(self, name: str) -> Mode:
        """A mode on these models; its bank and decoding are given per batch (`Mode.on`)."""
        from comem.modes import MODES
        from comem.modes.base import ModeSettings

        if name not in self._modes:
            if name == "comem" and self.encoder is None:
                raise MemoryFolderError(
                    "this memory keeps no embeddings (no encoder was given when it was made): ask with "
                    "mode='rag', or make a new folder with encoder=FOLDER"
                )
            vectors = self.injection if name == "comem" else None
            self._modes[name] = MODES[name](self.backbone, ModeSettings(self.encoder, None, vectors))
        return self._modes[name]

    def facts(self, form: str) -> dict[str, str]:
        """What a folder keeps of the models, once it holds items."""
        from comem.memory.encoder import injection_name

        facts = {"embedder": _name(self._embedder), "embedder_fingerprint": self.embedder.fingerprint}
        facts |= {"backbone": _name(self._backbone), "encoder": _name(self._encoder)}
        if self.encoder is not None:
            if self.encoder.num_vectors is None:
                raise MemoryFolderError(
                    "an encoder whose memories vary in length cannot be kept in a memory yet"
                )
            sizes = {"form": form, "queries": str(self.encoder.num_vectors), "width": str(self.encoder.width)}
            facts |= {"encoder_fingerprint": self.encoder.fingerprint(), **sizes}
            facts |= {"injection": injection_name(self.encoder)}
        return facts

    def layout(self, known: Mapping[str, str]) -> str:
        """The injection that the folder's memories are made for; where it is noted, without the encoder."""
        from comem.memory.encoder import injection_name

        return known.get("injection") or injection_name(self.encoder)

    def check(self, known: Mapping[str, str]) -> None:
        """Refuse models other than the folder's: what they make would mean something else.

        Raises:
            MemoryFolderError: names which.
        """
        self.check_embedder(known)
        made_by = known.get("encoder_fingerprint")
        if self.encoder is not None and made_by not in (None, *self.encoder.accepted_fingerprints()):
            raise MemoryFolderError(
                f"this memory was made by another encoder than {_name(self._encoder)!r}: open it with "
                f"encoder={known['encoder']!r}, or make a new folder and add the items again"
            )

    def check_embedder(self, known: Mapping[str, str]) -> None:
        """The same of the embedder alone, which is all that a search needs."""
        if known.get("embedder_fingerprint", self.embedder.fingerprint) != self.embedder.fingerprint:
            raise MemoryFolderError(
                f"this memory's vectors were made by another embedder than {_name(self._embedder)!r}: open "
                f"it with embedder={known['embedder']!r}, or make a new folder"
            )


def _name(value: Any) -> str:
    """What to write down of a model: its name or folder."""
    if value is None:
        return ""
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_dir()):
        return str(Path(value).absolute())
    if isinstance(value, str):
        return value
    if getattr(getattr(value, "spec", None), "name", "") == TOY:
        return TOY
    return str(getattr(value, "name", "") or getattr(getattr(value, "spec", None), "source", "") or GIVEN)


def form_of(facts: Mapping[str, str]) -> Float32:
    """How this folder writes memories."""
    return PLAIN_FORMS[facts["form"]](int(facts["queries"]), int(facts["width"]))
