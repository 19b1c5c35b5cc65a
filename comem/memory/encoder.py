"""What every memory encoder offers, the kinds there are, and how one is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, device, nn

from comem.backbones.flops import Flops
from comem.backbones.prepared import Prepared
from comem.backbones.specs import TOY_FOLDER
from comem.io.files import SUMS, compare_sums, new_folder, read_json, sums_of, write_sealed
from comem.memory.bank import MemoryBank
from comem.memory.lora import lora_layers
from comem.registry import Registry
from comem.types import ImageRef, KnowledgeItem

if TYPE_CHECKING:
    from comem.backbones.base import Backbone

_SAMPLES = 256
_CHUNK = 1 << 22
# What the weights' shapes do not show. A fixed list: whole configs differ between transformers versions.
_FACTS = (
    "model_type",
    "hidden_act",
    "rms_norm_eps",
    "num_attention_heads",
    "num_key_value_heads",
    "num_heads",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "window_size",
    "fullatt_block_indexes",
    "image_token_id",
    "rope_theta",
    "mrope_section",
)


def base_digest(model: nn.Module) -> str:
    """SHA-256 of the base model: facts of its config, and up to 256 values spread over every weight tensor.

    It tells checkpoints apart in seconds at 7B; it is not a proof against tampering. LoRA layers on
    the model change nothing.
    """
    digest = hashlib.sha256(json.dumps(_config_facts(model), sort_keys=True).encode())
    for name, tensor in base_weights(model).items():
        flat = tensor.flatten()
        count = min(_SAMPLES, flat.numel())
        picked = torch.arange(count) * (flat.numel() - 1) // max(count - 1, 1)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(flat[picked.to(flat.device)]))
    return digest.hexdigest()


def weights_version(model: nn.Module) -> tuple[int, ...]:
    """Changes whenever a parameter is written in place or replaced: tells whether a fingerprint is stale."""
    return tuple(
        part
        for p in model.parameters()
        for part in (id(p), p.data_ptr(), 0 if p.is_inference() else p._version)
    )


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights by the names they have without LoRA, sorted."""
    adapted = lora_layers(model)
    weights: dict[str, Tensor] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        owner, _, rest = name.partition(".lora_")
        if rest and owner in adapted:
            continue
        weights[name.replace(".base_layer.", ".")] = tensor.detach()
    return dict(sorted(weights.items()))


def _config_facts(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    facts: dict[str, Any] = {}
    for part in ("", "text_config", "vision_config"):
        source = getattr(config, part, None) if part else config
        values = {} if source is None else source.to_dict()
        values |= values.get("rope_parameters") or {}
        facts |= {f"{part}.{name}": values[name] for name in _FACTS if name in values}
    return facts


def add_tensors(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    """Count tensors in full: names, shapes, and values rounded to bfloat16."""
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        for part in tensors[name].detach().flatten().split(_CHUNK):  # type: ignore[no-untyped-call]
            digest.update(_bytes(part))


def _bytes(values: Tensor) -> bytes:
    return values.bfloat16().view(torch.int16).cpu().contiguous().numpy().tobytes()


TOY = "toy"
CONFIG = "comem_encoder.json"
VERSION = 1

#: Items to an encoder's inputs.
InputsOf = Callable[[Sequence[KnowledgeItem]], Mapping[str, Tensor]]


#: The file beside an encoder's own with what its injection has learned.
INJECTION = "injection.safetensors"


@dataclass
class Learned:
    """What an injection with weights of its own has learned, kept in its encoder's folder.

    A memory does not depend on it, so it is no part of the fingerprint.

    Attributes:
        name: the injection's row in `INJECTIONS`.
        settings: what it is made of, for its row.
        tensors: as they were read, until its row has made a module of them; None for a start anew.
        module: that module.
    """

    name: str
    settings: dict[str, Any]
    tensors: Mapping[str, Tensor] | None = None
    module: nn.Module | None = None

    def state(self) -> Mapping[str, Tensor]:
        """The tensors of today."""
        return (self.tensors or {}) if self.module is None else self.module.state_dict()

    def about(self) -> dict[str, Any]:
        """What comem_encoder.json says under "injection"."""
        return {"name": self.name, "settings": self.settings}


class MemoryEncoder(Protocol):
    """Item in, memory `(q, d)` out; a kind subclasses this and inherits what it does not define.

    Attributes:
        kind: its row in `ENCODERS`.
        num_vectors: embeddings of an item, `q`; None if it varies.
        width: `d`, that of the reader the memories are for.
        elastic: numbers of embeddings of which each, the first ones, is a usable memory; empty: all or none.
        any_number: whether it writes any number of vectors an item, as it is asked (`vectors` in training).
        reads_images: whether questions' own images become memories, too (`encode_images`).
        prepares: whether `inputs` may be made ahead, in any thread, and given to `encode`.
        adapts_reader: whether LoRA that it brings is the reader's: on while the reader reads memories.
        accepts: fingerprints of other encoders whose memories are as good.
        learned: what an injection has learned to bring its memories to the reader; None where it learns
            nothing.
        injection: how its memories are to reach the reader, a row of `INJECTIONS`; empty: as the mode has it.
    """

    kind: str
    num_vectors: int | None
    width: int
    elastic: tuple[int, ...] = ()
    any_number: bool = False
    reads_images: bool = False
    prepares: bool = False
    adapts_reader: bool = False
    accepts: tuple[str, ...] = ()
    learned: Learned | None = None
    injection: str = ""

    def encode(
        self, items: Sequence[KnowledgeItem], batch_size: int = 16, inputs: InputsOf | None = None
    ) -> MemoryBank:
        """Memories of items, whatever their order and number, as a bank in the given order.

        Args:
            items: each id once.
            batch_size: items in one call of the model.
            inputs: makes the model's inputs, where they were prepared ahead; None makes them now.

        Raises:
            ValueError: an id comes twice, or an item cannot be read; names it.
        """
        ...

    def fingerprint(self) -> str:
        """Identity of everything that a memory depends on, as hex."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write a folder that `load_encoder` opens."""
        write_about(folder, {"encoder": self.kind, "fingerprint": self.fingerprint()})

    def accepted_fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of banks that this encoder's reader may use."""
        return (self.fingerprint(), *self.accepts)

    def inputs(self, items: Sequence[KnowledgeItem]) -> Mapping[str, Tensor]:
        """What `encode` hands to its model; asked for only if `prepares`."""
        return {}

    def encode_images(self, images: Sequence[ImageRef], batch_size: int = 16) -> Tensor:
        """Memories `(n, q, d)` of questions' own images, one at least, for a reader that sees none.

        Raises:
            ValueError: the encoder does not read them.
        """
        raise ValueError("this encoder does not read questions' images: train one for a text-only `reader`")

    def item_format(self) -> dict[str, Any]:
        """How items are written, for a bank's manifest: prompt, max_chars, min_pixels, max_pixels."""
        return {}


class TrainableEncoder(MemoryEncoder, Protocol):
    """An encoder that can be trained: an `nn.Module`, called with the inputs of a batch of items.

    Attributes:
        model: what it encodes with, whose weights a reader may share.
        processor: the model's.
        prepared: the model's context (`comem.backbones.prepared`).
    """

    model: Any
    processor: Any
    prepared: Prepared

    def __call__(self, inputs: Mapping[str, Tensor], *count: int) -> Tensor:
        """Memories `(n, q, d)`, differentiable; of a kind of `any_number`, as many as `count` says."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of an `nn.Module`."""
        ...

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What training changes."""
        ...

    def trained_state(self) -> dict[str, dict[str, Tensor]]:
        """The same as tensors, by the file that they are saved in."""
        ...

    def load_weights(self, folder: str | Path) -> None:
        """Take over a folder's trained tensors, of the same sizes; ValueError if they are not."""
        ...

    def merge(self) -> TrainableEncoder:
        """What was trained folded into the weights of the model, which is changed in place."""
        ...

    def base_digest(self, keep: bool = False) -> str:
        """The identity of the base; `keep` before the weights go out of this process's sight (FSDP)."""
        ...


Load = Callable[[Path, Mapping[str, Any], "Backbone | None", "str | device | None"], MemoryEncoder]


@dataclass(frozen=True)
class EncoderPlan:
    """What a new encoder would be, told from sizes alone.

    Attributes:
        parameters: trained numbers by part, LoRA and the compressor.
        num_vectors: of an item's memory.
        flops: operations of the compressor over an item of so many tokens; the model's own are not its.
    """

    parameters: Mapping[str, int]
    num_vectors: int
    flops: Callable[[int], Flops]


@dataclass(frozen=True)
class EncoderKind:
    """A row of `ENCODERS`.

    Attributes:
        build: a new encoder on a backbone, with the kind's settings by name.
        plan: the same arguments to an `EncoderPlan`, the backbone's model on the meta device.
        load: from a folder, what its comem_encoder.json says, a backbone whose weights it may share (or
            None), and the device for weights of its own. None builds it anew on the backbone.
        trained: whether a new one knows nothing until it has been trained.
        style: how it has items written (`KnowledgeFormat.style`); empty: as the model's row has it.
    """

    build: Callable[..., Any]
    load: Load | None = None
    trained: bool = False
    plan: Callable[..., EncoderPlan] | None = None
    style: Literal["", "paper", "template", "bare"] = ""


ENCODERS: Registry[EncoderKind] = Registry(
    "encoder",
    {
        "qformer": "comem.memory.qformer_encoder:ROW",
        "stretches": "comem.memory.stretch_encoder:ROW",
        "video_memory": "comem.memory.video.encoder:ROW",
    },
)


def load_encoder(
    name: str | Path, backbone: Backbone | None = None, device: str | device | None = None
) -> MemoryEncoder:
    """Open a memory encoder.

    ```python
    encoder = load_encoder("toy", load_backbone("toy"))
    bank = encoder.encode([KnowledgeItem("oslo", "Oslo is a town.")])
    ```

    Args:
        name: an encoder's folder; "toy" for the embedded one; or a kind that needs no training, on the
            backbone or, as KIND@MODEL, on a model of its own ("mean_pooled@qwen2_5_vl_7b").
        backbone: the model that answers. An encoder made on the very same weights shares them: one copy.
        device: for weights of its own; by default the backbone's, else a GPU if there is one.

    Raises:
        ValueError: no such folder or kind, or an incomplete one; names it and the remedy.
    """
    if device is None and backbone is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, model = str(name).partition("@")
    if name != TOY and not Path(name).is_dir() and kind in ENCODERS:
        return _untrained(kind, model, backbone, device)
    folder = toy_memory() if name == TOY else Path(name)
    about = read_about(folder)
    _check_weights(folder, about.get(SUMS, {}))
    kind = about.get("encoder", "qformer")
    if (load := ENCODERS[kind].load) is not None:
        return load(folder, about, backbone, device)
    encoder = _untrained(kind, "", backbone, device)
    if about["fingerprint"] not in encoder.accepted_fingerprints():
        raise ValueError(f"{folder / CONFIG}: made on another model than the one given")
    return encoder


#: Weights of at most so many bytes are compared with their checksums before they are used (a second or two);
#: of larger ones `comem verify` tells.
_CHECKED = 1 << 30


def _check_weights(folder: Path, sums: Any) -> None:
    """Refuse weights that are not what was written."""
    names = [name for name in sums if name.endswith(".safetensors")] if isinstance(sums, dict) else []
    sizes = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    if sum(sizes.values()) <= _CHECKED and (wrong := compare_sums(folder, sums, sizes)):
        raise ValueError(wrong[0])


def _untrained(
    kind: str, model: str, backbone: Backbone | None, device: str | device | None
) -> MemoryEncoder:
    """A new encoder of a kind that needs no training, on a model of its own if one is named."""
    if ENCODERS[kind].trained:
        raise ValueError(f"encoders of the kind {kind!r} must be trained: comem train, then give its folder")
    if model:
        from comem.backbones.hf import load_backbone

        backbone = load_backbone(model, device=device if backbone is None else backbone.device)
    if backbone is None:
        raise ValueError(f"on which model? Give {kind}@MODEL")
    return ENCODERS[kind].build(backbone)  # type: ignore[no-any-return]


def injection_name(encoder: MemoryEncoder | None) -> str:
    """The injection that an encoder was trained with, where it says so; else the soft prefix."""
    name = None if encoder is None else encoder.learned.name if encoder.learned else encoder.injection
    return name or "prefix"


def read_about(folder: str | Path) -> dict[str, Any]:
    """What an encoder folder's comem_encoder.json says.

    Raises:
        ValueError: not an encoder folder, or one of a newer version; names the file and the remedy.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(_not_an_encoder(Path(folder)))
    about: Any = read_json(path, edited=True)
    if not isinstance(about, dict) or about.get("format") != "comem-encoder":
        raise ValueError(f"{path}: does not describe a memory encoder; save the encoder again")
    if not isinstance(about.get("version"), int) or not isinstance(about.get("fingerprint"), str):
        raise ValueError(f"{path}: has no version or no fingerprint; copy the folder again")
    if not isinstance(about.get("encoder", ""), str):
        raise ValueError(f"{path}: encoder is {about['encoder']!r}; expected the name of a kind")
    if about["version"] > VERSION:
        raise ValueError(f"{path}: version {about['version']}, known is {VERSION}: update comem")
    return about


def write_about(
    folder: str | Path, about: Mapping[str, Any], write: Callable[[Path], None] | None = None
) -> None:
    """Write an encoder folder as a whole, or leave what was there.

    Args:
        folder: the encoder's.
        about: what comem_encoder.json says beside format and version; `encoder` names the kind.
        write: puts the other files into the folder.

    Raises:
        StorageError: no space is left.
    """
    with new_folder(Path(folder)) as temporary:
        if write is not None:
            write(temporary)
        known = {"format": "comem-encoder", "version": VERSION, **about}
        write_sealed(temporary / CONFIG, {**known, SUMS: sums_of(temporary)})


def _not_an_encoder(folder: Path) -> str:
    if not folder.is_dir():
        what = "a file, and no folder of an encoder" if folder.is_file() else "no such folder"
        return f"{folder}: {what}; check the path"
    whole = next((path.parent for path in sorted(folder.glob(f"step-*/{CONFIG}"), reverse=True)), None)
    if whole is not None:
        return f"{folder}: a folder of checkpoints, each of them an encoder; give one, as {whole}"
    if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
        return (
            f"{folder}: a training's folder: comem merge {folder} DIR makes an encoder of it, or give one of"
            " its checkpoints"
        )
    if (folder / "model.safetensors").is_file() or (folder / "model.safetensors.index.json").is_file():
        return (
            f"{folder}: has no {CONFIG}: a model without Q-Former (the authors' plain merge drops it) cannot "
            "make memories; their checkpoints with one become encoder folders by comem convert"
        )
    kinds = (("index.json", "an index, and"), ("items.json", "a corpus, and"), ("store.json", "a bank, and"))
    what = next((kind for name, kind in kinds if (folder / name).is_file()), f"has no {CONFIG}:")
    return f"{folder}: {what} not a memory encoder; give one's folder, or make one with `comem train`"


def toy_memory() -> Path:
    """The embedded memory encoder's folder."""
    return TOY_FOLDER.parent / "memory"


def hidden_size(model: Any) -> int:
    """Width of the language model, from the config."""
    return int(model.config.get_text_config().hidden_size)


def check_width(encoder: MemoryEncoder, width: int) -> None:
    """Refuse an encoder whose memories do not fit a reader of this width.

    Raises:
        ValueError: names both widths and the remedy.
    """
    if encoder.width != width:
        raise ValueError(
            f"the encoder writes memories of width {encoder.width}, the reader reads {width}: answer with "
            "the model it was trained for, or train one for this reader (comem train reader=NAME)"
        )


def length_batches(items: Sequence[KnowledgeItem], batch_size: int) -> list[list[int]]:
    """Positions of the items in batches of like length."""
    by_length = sorted(range(len(items)), key=lambda i: len(items[i].text))
    return [by_length[start : start + batch_size] for start in range(0, len(items), batch_size)]
