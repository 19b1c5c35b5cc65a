"""The paper's memory encoder: the VLM with LoRA on reads one item, a Q-Former makes 8 embeddings of it.

Its folders are of two kinds, told apart by `kind` in comem_encoder.json:

- "adapter": `adapter.safetensors` (LoRA) + `qformer.safetensors`, and which base they belong to.
- "merged": an ordinary model folder of transformers (LoRA folded in) + `qformer.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, device, nn

from comem.backbones.base import Backbone
from comem.backbones.flops import Flops
from comem.backbones.hf import context_of
from comem.backbones.positions import keeps_state, text_positions, with_positions
from comem.backbones.prepared import Prepared, evaluating, pack
from comem.backbones.specs import auto_class, load_model, load_model_config, load_processor
from comem.config import from_values
from comem.memory.bank import MemoryBank, open_tensors, read_tensors, tensor_files, write_tensors
from comem.memory.encoder import (
    CONFIG,
    INJECTION,
    EncoderKind,
    EncoderPlan,
    InputsOf,
    Learned,
    MemoryEncoder,
    add_tensors,
    base_digest,
    hidden_size,
    length_batches,
    read_about,
    weights_version,
    write_about,
)
from comem.memory.items import item_inputs, to_device
from comem.memory.lora import (
    LoraSettings,
    adapters_on,
    add_lora,
    cheaper_order,
    fold_lora,
    load_lora_state,
    lora_layers,
    lora_state,
    trainable_count,
)
from comem.memory.qformer import QFormer, QFormerConfig, token_embedding_scale
from comem.memory.settings import KnowledgeFormat, QFormerSettings
from comem.types import ImageRef, KnowledgeItem

QFORMER = "qformer.safetensors"
ADAPTER = "adapter.safetensors"
_FINGERPRINT_VERSION = 1
E = TypeVar("E", bound="QFormerEncoder")


class QFormerEncoder(nn.Module, MemoryEncoder):
    """A VLM with LoRA and a Q-Former.

    The model may be the reader itself (one copy of the weights: LoRA is on only while this encoder
    reads) or a model of its own (merged, or of another size).

    Args:
        model: an image-text-to-text model of transformers, with LoRA (`add_lora`) or merged.
        processor: its processor; only `encode` and `inputs` need it.
        qformer: of the model's width.
        lora: the settings of the model's LoRA; None for a model without.
        form: how items are written.
        accepts: fingerprints of other encoders whose banks are as good (the one merged into this).
        elastic: numbers of embeddings of which each was trained to be a usable memory; empty: all or none.
    """

    kind = "qformer"
    num_vectors: int | None
    prepares = True
    sizes: ClassVar[type[Any]] = QFormerConfig
    former: ClassVar[type[Any]] = QFormer

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        qformer: QFormer,
        lora: LoraSettings | None = None,
        form: KnowledgeFormat = KnowledgeFormat(),  # noqa: B008 (frozen)
        accepts: tuple[str, ...] = (),
        elastic: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        width = hidden_size(model)
        if qformer.config.hidden_size != width:
            raise ValueError(
                f"the Q-Former reads width {qformer.config.hidden_size}, the model gives {width}: "
                "they belong to different encoders"
            )
        if (lora is not None) != bool(lora_layers(model)):
            raise ValueError("give the LoRA settings exactly when the model has LoRA layers (add_lora)")
        self.model, self.processor, self.qformer = model, processor, qformer
        self.lora, self.form, self.accepts, self.elastic = lora, form, accepts, elastic
        self.num_vectors, self.width = qformer.config.num_queries, qformer.config.width_out
        self.reads_images = form.reads_images
        self.prepared = Prepared(model)
        self._known: tuple[tuple[int, ...], str] | None = None
        self._base: str | None = None

    @classmethod
    def new(
        cls: type[E],
        model: nn.Module,
        processor: Any,
        lora: LoraSettings = LoraSettings(),  # noqa: B008 (frozen)
        qformer: Any = None,
        form: KnowledgeFormat = KnowledgeFormat(),  # noqa: B008 (frozen)
    ) -> E:
        """An untrained encoder on a base model, which gets LoRA and is frozen otherwise.

        Args:
            model: the base model.
            processor: the model's.
            lora: where LoRA goes, and its sizes.
            qformer: None for the paper's sizes with the model's width.
            form: how items are written.
        """
        config = qformer or cls.sizes(hidden_size(model))
        add_lora(model, lora)  # first, as in 0.1: a seed draws the same weights
        return cls(model, processor, cls.former(config).to(_table(model)), lora, form)

    @property
    def device(self) -> device:
        """Of the Q-Former."""
        return self.qformer.latents.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the Q-Former, and of the memories."""
        return self.qformer.latents.dtype

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Memory of a batch of items, differentiable, LoRA on.

        Where the model's attention allows it, the items are packed: no layer computes padding.

        Args:
            inputs: of `self.inputs` or any left-padded batch: `input_ids`, `attention_mask` `(n, l)`,
                and `pixel_values`, `image_grid_thw` if items have images.

        Returns:
            `(n, q, d)`.
        """
        inputs = self._positioned(dict(inputs))
        with self.prepared:
            if not self.prepared.packs:
                hidden = self._hidden(inputs)  # (n, l, d)
                return cast(Tensor, self.qformer(hidden.to(self.dtype), inputs["attention_mask"].bool()))
            packed, rows = pack(inputs)
            hidden = self._hidden({**packed, "segments": rows})[0]  # (tokens, d)
            return cast(Tensor, self.qformer(rows.padded(hidden.to(self.dtype)), rows.real))

    def _positioned(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs with positions that do not count padding."""
        if self.form.style == "paper" or self.prepared.packs:
            return with_positions(self.model, inputs)
        return {**text_positions(self.model, inputs["attention_mask"]), **inputs}

    def _hidden(self, inputs: dict[str, Any]) -> Tensor:
        """The last hidden states after the final norm `(b, l, d)`; no logits, no other layer's, no cache."""
        tokens = max(inputs["input_ids"].numel(), len(inputs.get("pixel_values", ())))
        with adapters_on(self.model), cheaper_order(self.model, tokens):
            base: Any = self.model.base_model
            return base(**inputs, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def inputs(self, items: Sequence[KnowledgeItem]) -> dict[str, Tensor]:
        """One batch for `forward`, on the encoder's device."""
        return to_device(item_inputs(items, self.processor, self.form), self.device)

    @cached_property
    @torch.no_grad()
    def one_by_one(self) -> bool:
        """Whether padding would change a memory: it goes through the state that some models keep (RWKV)."""
        if not keeps_state(self.model):
            return False
        from comem.backbones.probe import ROUNDING

        ids = torch.arange(1, 9, device=self.device)[None]
        plain, padded = torch.ones_like(ids), torch.cat([torch.zeros_like(ids), torch.ones_like(ids)], dim=1)
        alone = self({"input_ids": ids, "attention_mask": plain})
        moved = self({"input_ids": torch.cat([plain, ids], dim=1), "attention_mask": padded}) - alone
        return bool(moved.abs().max() > ROUNDING.get(self.dtype, 1e-3) * alone.abs().max())

    @torch.no_grad()
    def encode(
        self, items: Sequence[KnowledgeItem], batch_size: int = 16, inputs: InputsOf | None = None
    ) -> MemoryBank:
        """As `MemoryEncoder.encode`; items of like length share a batch."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        ids = tuple(item.id for item in items)
        shape = (len(ids), self.qformer.config.num_queries, self.width)
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
        bank = MemoryBank(out, ids, self.fingerprint())  # refuses repeated ids before the work
        make = inputs or self.inputs
        with self.prepared, evaluating(self):
            for rows in length_batches(items, 1 if self.one_by_one else batch_size):
                some = [items[i] for i in rows]
                out[rows] = self(self._fitting(some, make(some)))
        return bank

    def _fitting(self, items: Sequence[KnowledgeItem], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The inputs, if the base model was made for texts as long as theirs."""
        lengths, limit = inputs["attention_mask"].sum(dim=1), context_of(self.model)
        if limit is not None and int(lengths.max()) > limit:
            item = items[int(lengths.argmax())]
            raise ValueError(
                f"knowledge item {item.id!r}: {int(lengths.max())} tokens, but the encoder's base takes"
                f" {limit}: shorten its passage (corpus build --max-chars), or make several items of it"
            )
        return inputs

    @torch.no_grad()
    def encode_images(self, images: Sequence[ImageRef], batch_size: int = 16) -> Tensor:
        """As `MemoryEncoder.encode_images`, in batches."""
        parts = []
        with self.prepared, evaluating(self):
            step = 1 if self.one_by_one else batch_size
            for start in range(0, len(images), step):
                some = images[start : start + step]
                inputs = item_inputs((), self.processor, self.form, some)
                parts.append(self(to_device(inputs, self.device)))
        made = torch.cat(parts)
        if not torch.isfinite(made).all():
            raise ValueError("the memory of a question's image has NaN or infinity in it: check the encoder")
        return made

    def item_format(self) -> dict[str, Any]:
        """As `MemoryEncoder.item_format`; without a processor the pixel limits are None."""
        low, high = self._limits() or (None, None)
        return {
            "prompt": self.form.prompt, "max_chars": self.form.max_chars,
            "min_pixels": low, "max_pixels": high,
        }  # fmt: skip

    def _limits(self) -> tuple[int, int] | None:
        """Pixel limits in effect; None without a processor, or one whose limits are not pixels."""
        images = getattr(self.processor, "image_processor", None)
        return None if images is None else self.form.pixel_limits(images)

    def fingerprint(self) -> str:
        """SHA-256 over all that a memory depends on.

        The trained weights (LoRA, Q-Former) count in full, the base by `base_digest`; then LoRA's scale,
        the Q-Former's sizes, the format of the items with the pixel limits in effect, and the version of
        this format. Values count as rounded to bfloat16, so that the same weights have one fingerprint
        whether they are loaded in float32 or bfloat16.

        Hashing takes seconds at 7B, so it is done once until a weight is written again.
        """
        key = weights_version(self)
        if self._known is None or self._known[0] != key:
            self._known = (key, self._fingerprint())
        return self._known[1]

    def _fingerprint(self) -> str:
        facts = {
            "version": _FINGERPRINT_VERSION,
            "prompt": self.form.prompt,
            "max_chars": self.form.max_chars,
            "pixels": self._limits(),
            "qformer": asdict(self.qformer.config),
            "lora": None if self.lora is None else [self.lora.rank, self.lora.alpha],
            "base": self.base_digest(),
        }
        if self.form.style == "template":
            sizes = [self.form.max_tiles, self.form.max_side]
            facts |= {"style": self.form.style, "template": _template(self.processor), "sizes": sizes}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for tensors in (lora_state(self.model), self.qformer.state_dict()):
            add_tensors(digest, tensors)
        return digest.hexdigest()

    def base_digest(self, keep: bool = False) -> str:
        """The base's identity (`comem.memory.encoder`).

        Args:
            keep: compute it once for all, before the weights go out of this process's sight (FSDP).
        """
        found = self._base or base_digest(self.model)
        if keep:
            self._base = found
        return found

    def trained_state(self) -> dict[str, dict[str, Tensor]]:
        """What training changes, by the file that it is saved in."""
        lora = {} if self.lora is None else {ADAPTER: lora_state(self.model)}
        learned = {} if self.learned is None else {INJECTION: dict(self.learned.state())}
        return {**lora, QFORMER: self.qformer.state_dict(), **learned}

    def trainable_parameters(self) -> list[nn.Parameter]:
        """LoRA and Q-Former, what training changes."""
        return [p for p in self.parameters() if p.requires_grad]

    def trainable_count(self) -> int:
        """Number of trained parameters: 231.7 M (2.79 %) at Qwen2.5-VL-7B."""
        return trainable_count(self)

    def merge(self: E) -> E:
        """Fold LoRA into the weights: an ordinary model with the same memory.

        The model is changed in place, so it can no longer serve as the reader.
        """
        if self.lora is None:
            return self
        accepts = self.accepted_fingerprints()
        fold_lora(self.model)
        parts = self.model, self.processor, self.qformer, None, self.form
        merged = type(self)(*parts, accepts, self.elastic)
        merged.learned = self.learned
        merged.injection = self.injection
        return merged

    def save(self, folder: str | Path) -> None:
        """Write an adapter folder (with LoRA) or a merged one (without), as a whole or not at all.

        Raises:
            StorageError: no space is left.
        """

        def write(temporary: Path) -> None:
            for name, tensors in self.trained_state().items():
                write_tensors(temporary / name, tensors)
            if self.lora is None:
                self.model.save_pretrained(temporary)  # type: ignore[operator]
                if self.processor is not None:
                    self.processor.save_pretrained(temporary)

        write_about(folder, self._about(Path(folder)), write)

    def _about(self, folder: Path) -> dict[str, Any]:
        """What comem_encoder.json says."""
        config: Any = self.model.config
        return {
            "encoder": self.kind,
            "kind": "merged" if self.lora is None else "adapter",
            "base": {
                "name": _reference(getattr(config, "_name_or_path", "") or "", folder),
                "model_type": config.model_type,
                "hidden_size": hidden_size(self.model),
                "digest": self.base_digest(),
            },
            "lora": None if self.lora is None else asdict(self.lora),
            "qformer": asdict(self.qformer.config),
            "form": asdict(self.form),
            "fingerprint": self.fingerprint(),
            "accepts": list(self.accepts),
            "elastic": list(self.elastic),
            **({} if self.learned is None else {"injection": self.learned.about()}),
            **({"injection_name": self.injection} if self.injection else {}),
        }

    @classmethod
    @torch.no_grad()
    def load(cls: type[E], folder: str | Path, reader: nn.Module | None = None, processor: Any = None) -> E:
        """Read what `save` wrote.

        Args:
            folder: of either kind.
            reader: for an adapter folder, the base model: it gets the LoRA (off at rest) and is encoder
                and reader in one copy. None loads the base that the folder names. A merged folder has
                weights of its own and leaves the reader alone.
            processor: of the base; None loads it from where the base is.

        Raises:
            ValueError: not an encoder folder, an incomplete one, or one of another base or width; names the
                file and the remedy.
        """
        folder = Path(folder)
        about, trained = read_folder(folder, cls.sizes)
        if about["kind"] == "merged":
            model: Any = _open_model(folder)
            processor = processor or _processor(folder)
        else:
            base = _resolve(folder, about["base"]["name"])
            model = reader if reader is not None else _base_model(folder, base)
            processor = processor or _processor(base)
        _check_base(folder, about, model)
        lora = None if about["lora"] is None else LoraSettings(**about["lora"])
        qformer = cls.former(cls.sizes(**about["qformer"])).to(_table(model))
        _load_qformer(qformer, trained[QFORMER], folder / QFORMER)
        if lora is not None and not lora_layers(model):
            add_lora(model, lora)
        load_lora_state(model, trained.get(ADAPTER, {}), str(folder / ADAPTER))
        form = KnowledgeFormat(**about["form"])
        accepts, elastic = tuple(about["accepts"]), tuple(about.get("elastic", ()))
        encoder = cls(model, processor, qformer, lora, form, accepts, elastic).eval()
        encoder.learned = _learned(about, trained)
        encoder.injection = about.get("injection_name", "")
        return encoder

    @torch.no_grad()
    def load_weights(self, folder: str | Path) -> None:
        """Take over a folder's trained tensors, of the same sizes (to resume a training, or to start one).

        Raises:
            ValueError: as `load`; LoRA or Q-Former are of other sizes than this encoder's.
        """
        folder = Path(folder)
        about, trained = read_folder(folder, self.sizes)
        self._check_sizes(folder, about)
        _check_base(folder, about, self.model)
        _load_qformer(self.qformer, trained[QFORMER], folder / QFORMER)
        load_lora_state(self.model, trained.get(ADAPTER, {}), str(folder / ADAPTER))
        self.learned = _learned(about, trained) or self.learned

    def _check_sizes(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Refuse a folder whose trained parts are of other sizes, before a tensor is touched."""
        lora, found = LoraSettings(**(about["lora"] or {})), self.sizes(**about["qformer"])
        mine = self.lora or LoraSettings()
        if (lora.rank, lora.alpha) != (mine.rank, mine.alpha):
            raise ValueError(f"{folder} holds {lora}, the settings ask for {mine}; set them alike")
        if found.width_out != self.width:
            raise ValueError(
                f"{folder} writes memories of width {found.width_out}, the reader reads {self.width}: "
                "set `reader` to the model that it was trained for, or start without `init`"
            )
        if self._shapes(found) != self._shapes(self.qformer.config):
            raise ValueError(
                f"{folder} holds {found}, the settings ask for {self.qformer.config}; set them alike"
            )

    @staticmethod
    def _shapes(config: Any) -> Any:
        """What a Q-Former's tensors show: the output scale's start value does not, that it has one does."""
        return replace(config, output_size=None, output_scale=None if config.output_scale is None else 1.0)


def read_folder(
    folder: str | Path, sizes: type[Any] | None = None, *, check: bool = True
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """What a folder's comem_encoder.json says, and its trained tensors by file; the base is not touched.

    Args:
        folder: the encoder's.
        sizes: of its kind's compressor, to check what the description says of it; None leaves that out.
        check: compare the tensors with their files' checksums.

    Raises:
        ValueError: not an encoder folder, or an incomplete one; names the file and the remedy.
    """
    folder, about = Path(folder), read_about(folder)
    if about.get("kind") not in ("adapter", "merged"):
        raise ValueError(f"{folder / CONFIG}: does not describe a memory encoder; save the encoder again")
    _check_about(folder / CONFIG, about, sizes)
    names = (ADAPTER, QFORMER) if about["kind"] == "adapter" else (QFORMER,)
    names = (*names, INJECTION) if "injection" in about else names
    for name in reversed(names):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: missing, no memory can be computed: copy or save it again")
    return about, {name: read_tensors(folder / name, check=check) for name in names}


def _learned(about: Mapping[str, Any], trained: Mapping[str, dict[str, Tensor]]) -> Learned | None:
    """What an injection has learned beside this encoder."""
    found = about.get("injection")
    return None if found is None else Learned(found["name"], found["settings"], trained[INJECTION])


@dataclass(frozen=True)
class _Injection:
    """What comem_encoder.json says of an injection with weights of its own."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Base:
    """What comem_encoder.json says of the base model."""

    name: str
    hidden_size: int
    digest: str
    model_type: str = ""


@dataclass(frozen=True)
class _About:
    """What comem_encoder.json has to say, and of which types."""

    base: _Base
    qformer: dict[str, Any]
    form: KnowledgeFormat
    accepts: tuple[str, ...]
    lora: LoraSettings | None = None
    elastic: tuple[int, ...] = ()
    injection: _Injection | None = None
    injection_name: str = ""


def _check_about(path: Path, about: Mapping[str, Any], sizes: type[Any] | None) -> None:
    """Refuse a description that lacks something, or whose values are of other types or impossible."""
    known = {each.name for each in fields(_About)}
    try:
        found = from_values(_About, {key: value for key, value in about.items() if key in known}, str(path))
        if sizes is not None:
            from_values(sizes, found.qformer, f"{path}: qformer")
        if (about["kind"] == "adapter") == (found.lora is None):
            raise ValueError(f"{path}: lora is {about.get('lora')!r} in a folder of kind {about['kind']!r}")
    except ValueError as error:
        raise ValueError(f"{error}; copy the folder again, or save the encoder anew") from error


def _load_qformer(qformer: QFormer, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy the Q-Former's tensors, all or none."""
    own = qformer.state_dict()
    wrong = sorted(set(own) ^ set(tensors))
    wrong = wrong or [name for name in own if own[name].shape != tensors[name].shape]
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} tensors do not fit the sizes in {CONFIG}, first {wrong[0]}: the file is "
            "of another Q-Former or of another width; copy the folder again"
        )
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def _check_base(folder: Path, about: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse a base model that the folder was not made on."""
    base, path = about["base"], folder / CONFIG
    if hidden_size(model) != base["hidden_size"]:
        raise ValueError(
            f"{path}: made for a backbone of width {base['hidden_size']}, this one has {hidden_size(model)}: "
            f"load its own base ({base['name'] or 'unnamed'})"
        )
    if base_digest(model) != base["digest"]:
        raise ValueError(
            f"{path}: made on another base model than the one given: load the base that it names "
            f"({base['name'] or 'unnamed'}) or train an encoder on this one"
        )


def _reference(name: str, folder: Path) -> str:
    """A hub id as it is; a local folder relative to the encoder's, so that both can move together."""
    if os.path.isdir(name):
        return os.path.relpath(os.path.realpath(name), os.path.realpath(folder))
    return name


def _resolve(folder: Path, name: str) -> str:
    local = os.path.normpath(folder / name) if name else ""
    return local if os.path.isdir(local) else name


def _base_model(folder: Path, base: str) -> Any:
    try:
        return _open_model(base)
    except ValueError as error:
        raise ValueError(
            f"{folder / CONFIG}: its base model {base!r} cannot be loaded ({error}): give `reader`"
        ) from error


def _open_model(source: str | Path) -> Any:
    """A model of whichever kind its config names; a weight file that is missing or cut is named."""
    if os.path.isdir(source):
        for path in tensor_files(source):
            with open_tensors(path):
                pass
    config = load_model_config(source)
    loads = auto_class(config.model_type, config.architectures or ())
    return load_model(source, loads or "AutoModelForImageTextToText", dtype="auto")


def _template(processor: Any) -> str:
    """The chat template that items are written by; nothing without a processor."""
    own = getattr(processor, "chat_template", None)
    return str(own or getattr(getattr(processor, "tokenizer", None), "chat_template", None) or "")


def _processor(source: str | Path) -> Any:
    """The processor that lies with the model, if one does (an encoder without can read ready batches)."""
    if not str(source):
        return None
    try:
        return load_processor(source)
    except ValueError as error:
        raise ValueError(f"{source}: no processor there ({error}): give `processor`") from error


def _table(model: Any) -> Tensor:
    """The model's input embeddings `(v, d)`."""
    return model.get_input_embeddings().weight  # type: ignore[no-any-return]


def qformer_config(settings: QFormerSettings, model: Any, reader: Any = None) -> QFormerConfig:
    """The Q-Former's sizes: the model's width in, the reader's out, its output scale as a number."""
    reader = model if reader is None else reader
    width, scale = hidden_size(reader), settings.output_scale
    if scale == "auto":
        scale = token_embedding_scale(reader.get_input_embeddings())
    return QFormerConfig(
        hidden_size(model),
        num_queries=settings.num_queries,
        depth=settings.depth,
        heads=settings.heads,
        ff_mult=settings.ff_mult,
        shared=settings.shared,
        output_size=None if width == hidden_size(model) else width,
        output_scale=scale,
    )


def build_encoder(
    backbone: Backbone,
    *,
    lora: LoraSettings = LoraSettings(),  # noqa: B008 (frozen)
    qformer: QFormerSettings = QFormerSettings(),  # noqa: B008 (frozen)
    form: KnowledgeFormat = KnowledgeFormat(),  # noqa: B008 (frozen)
    elastic: tuple[int, ...] = (),
    reader: Any = None,
) -> QFormerEncoder:
    """A new encoder on a backbone's own weights, to be trained.

    Args:
        backbone: whose model reads the items.
        lora: where LoRA goes, and its sizes.
        qformer: the Q-Former's sizes.
        form: how items are written.
        elastic: numbers of embeddings of which each is to be a usable memory; empty for all or none.
        reader: the model that answers, if it is not the backbone's.
    """
    if qformer.layers:
        raise ValueError("qformer.layers: only encoder=stretches reads with the lowest layers alone")
    config = qformer_config(qformer, backbone.model, reader)
    form = replace(form, style=backbone.spec.items)
    encoder = QFormerEncoder.new(backbone.model, backbone.processor, lora, config, form)
    encoder.elastic = elastic
    if qformer.near_identity:
        encoder.qformer.start_near_identity()
    return encoder


def paper_encoder(model: Any) -> QFormerEncoder:
    """The paper's encoder, untrained, without a processor: its speed and size are those of a trained one."""
    with device(_table(model).device):
        return QFormerEncoder.new(model, None)


def paper_flops(width: int, tokens: int) -> Flops:
    """Operations of the paper's Q-Former over one item of so many hidden states of a width."""
    return QFormerConfig(width).flops(tokens)


def plan_encoder(
    backbone: Backbone,
    *,
    lora: LoraSettings = LoraSettings(),  # noqa: B008 (frozen)
    qformer: QFormerSettings = QFormerSettings(),  # noqa: B008 (frozen)
    reader: Any = None,
    **_: Any,
) -> EncoderPlan:
    """What `build_encoder` would make; the backbone's model gets its LoRA."""
    if qformer.output_scale == "auto":  # is read off weights, which are not there
        qformer = replace(qformer, output_scale=1.0)
    config = qformer_config(qformer, backbone.model, reader)
    with device("meta"):
        former = QFormer(config)
        add_lora(backbone.model, lora)
    own = sum(parameter.numel() for parameter in former.parameters())
    return EncoderPlan(
        {"LoRA": trainable_count(backbone.model), "Q-Former": own}, config.num_queries, config.flops
    )


def load_adapter(
    folder: Path, about: Mapping[str, Any], backbone: Backbone | None, target: str | device | None,
    kind: type[E],
) -> E:  # fmt: skip
    """An adapter made on the backbone's own weights shares them; anything else brings its own."""
    adapter = about.get("kind") == "adapter"
    if backbone is not None and adapter and about["base"]["digest"] == base_digest(backbone.model):
        return kind.load(folder, backbone.model, backbone.processor)
    encoder = kind.load(folder)
    return encoder.to(target or (backbone.device if backbone is not None else "cpu"))


ROW = EncoderKind(build_encoder, partial(load_adapter, kind=QFormerEncoder), trained=True, plan=plan_encoder)
