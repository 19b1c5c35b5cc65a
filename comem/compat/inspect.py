"""What is in a checkpoint of the authors', before any of it is loaded: layout, sizes, and what was trained.

The layouts are those of `comem.compat.checkpoint`. Their training changed the "frozen" reader by accident
(authors_code.md C3), their merge lost the Q-Former (C2), ZeRO-3 wrote empty tensors (C4): so the reader is
compared with the base, and the Q-Former with its start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comem.compat.checkpoint import QFORMER_PREFIX, READER_PREFIX, current_name, read_model_config
from comem.memory.bank import open_tensors, tensor_files

WRAPPED = "base_model.model."
TRAINED_COPY = ("modules_to_save.default.", "modules_to_save.")
FIRST_COPY = "original_module."
#: The raw run folder's other half, once it is no pickle any more.
REST = "non_lora_state_dict.safetensors"
#: Norms start as the identity; one step of AdamW moves them.
_NORMS = ("norm", "layers.1.0.")


@dataclass(frozen=True)
class Findings:
    """What a checkpoint holds.

    Attributes:
        layout: "A" (merged with Q-Former), "B" (merged without), "C" (raw run folder).
        family: of the model, where a config says it.
        dtypes: tensors by type.
        tensors: tensors by part: encoder, qformer, reader.
        qformer: whether it was trained, in words.
        reader: whether it differs from the base, in words.
        encoder: the same of the encoder.
        refusal: why it cannot be converted, and what to do; empty where it can.
    """

    layout: str
    family: str
    dtypes: Mapping[str, int]
    tensors: Mapping[str, int]
    qformer: str
    reader: str
    encoder: str
    refusal: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """Labels and values, for printing."""
        names = {
            "A": "merged, with Q-Former and reader",
            "B": "merged, without Q-Former",
            "C": "raw run folder",
        }
        dtypes = ", ".join(f"{name} ({count})" for name, count in self.dtypes.items())
        parts = ", ".join(f"{name} {count}" for name, count in self.tensors.items())
        return [
            ("layout", f"{self.layout}: {names[self.layout]}"), ("family", self.family), ("types", dtypes),
            ("tensors", parts), ("Q-Former", self.qformer), ("encoder", self.encoder),
            ("reader", self.reader),
        ]  # fmt: skip


class _Stored:
    """The tensors of a folder, read one at a time, sorted by the part that they belong to."""

    def __init__(self, files: list[Path], held: ExitStack) -> None:
        self._home: dict[str, Any] = {}
        for path in files:
            file = held.enter_context(open_tensors(path))
            self._home |= dict.fromkeys(file.keys(), file)
        self.parts: dict[str, dict[str, str]] = {"encoder": {}, "qformer": {}, "first": {}, "reader": {}}
        for stored in self._home:
            part, name = part_of(stored)
            self.parts[part].setdefault(name, stored)

    def __getitem__(self, stored: str) -> Tensor:
        tensor: Tensor = self._home[stored].get_tensor(stored)
        return tensor

    def shape(self, stored: str) -> tuple[int, ...]:
        return tuple(self._home[stored].get_slice(stored).get_shape())

    def dtypes(self) -> dict[str, int]:
        found = Counter(str(self._home[name].get_slice(name).get_dtype()) for name in self._home)
        return dict(found.most_common())

    def of(self, part: str) -> Iterator[tuple[str, Tensor]]:
        """Plain names and tensors of a part."""
        return ((name, self[stored]) for name, stored in self.parts[part].items())


def part_of(stored: str) -> tuple[str, str]:
    """A stored tensor's part, and its name there."""
    name = stored.removeprefix(WRAPPED)
    if name.startswith(READER_PREFIX):
        return "reader", name.removeprefix(READER_PREFIX)
    if not name.startswith(QFORMER_PREFIX):
        return "encoder", name
    plain = name.removeprefix(QFORMER_PREFIX)
    if plain.startswith(FIRST_COPY):
        return "first", plain.removeprefix(FIRST_COPY)
    for wrapper in TRAINED_COPY:
        plain = plain.removeprefix(wrapper)
    return "qformer", plain


def inspect_checkpoint(folder: str | Path, base: Mapping[str, Tensor] | None = None) -> Findings:
    """Look into a folder of one of the authors' layouts.

    Args:
        folder: holds safetensors.
        base: the weights of the model that was trained, by the names of transformers 5; without them
            nothing can be compared with it.

    Raises:
        ValueError: no such folder, pickled or damaged weights; names the file and the remedy.
    """
    folder = Path(folder)
    files = tensor_files(folder)
    if (folder / REST).is_file():
        files.append(folder / REST)
    with ExitStack() as held:
        stored = _Stored(files, held)
        lora = any(".lora_A." in name for name in (*stored.parts["encoder"], *stored.parts["reader"]))
        layout = "C" if lora else "A" if stored.parts["qformer"] else "B"
        return Findings(
            layout, _family(folder), stored.dtypes(),
            {part: len(stored.parts[part]) for part in ("encoder", "qformer", "reader")},
            _trained(stored), *_compared(stored, layout, base), _refusal(folder, stored, layout),
        )  # fmt: skip


def _family(folder: Path) -> str:
    try:
        return str(read_model_config(folder).model_type)
    except ValueError:
        return "not said"


def _trained(stored: _Stored) -> str:
    """Whether the Q-Former was trained: against the copy of its start, or by its norms."""
    names = stored.parts["qformer"]
    if not names:
        return "none"
    if stored.parts["first"]:
        same = sum(
            _equal(tensor, stored[names[name]]) for name, tensor in stored.of("first") if name in names
        )
        if same == len(stored.parts["first"]):
            return "NOT trained: equal to the copy of its start"
        return f"trained: {len(names) - same} of {len(names)} tensors differ from the copy of its start"
    norms = [
        (name, tensor) for name, tensor in stored.of("qformer") if name.startswith(_NORMS) or ".norm" in name
    ]
    start = sum(bool((tensor == float(name.endswith("weight"))).all()) for name, tensor in norms)
    if norms and start == len(norms):
        return "NOT trained: its norms are as they start, weights 1 and biases 0"
    return f"trained: {len(norms) - start} of {len(norms)} norm tensors have left their start"


def _compared(stored: _Stored, layout: str, base: Mapping[str, Tensor] | None) -> tuple[str, str]:
    """What is said of the encoder and of the reader, in the order of the fields: reader first."""
    if layout == "C":
        readers, encoders = (_trained_layers(stored, part) for part in ("reader", "encoder"))
        return (
            f"{readers} LoRA layers were trained (C3), and are left out" if readers else "the plain base",
            f"{encoders} LoRA layers were trained" if encoders else "NOT trained: every LoRA B is zero",
        )
    if base is not None:
        lookup = partial(_of_base, base)
        return _difference(stored, "reader", lookup, "the base"), _difference(
            stored, "encoder", lookup, "the base"
        )
    unknown = "not compared with the base: name it (--base)"
    beside = partial(_of_encoder, stored)
    return f"{_difference(stored, 'reader', beside, 'the encoder')}; {unknown}", unknown


def _trained_layers(stored: _Stored, part: str) -> int:
    return sum(bool((tensor != 0).any()) for name, tensor in stored.of(part) if ".lora_B." in name)


def _of_base(base: Mapping[str, Tensor], name: str) -> Tensor | None:
    return base.get(name, base.get(current_name(name)))


def _of_encoder(stored: _Stored, name: str) -> Tensor | None:
    names = stored.parts["encoder"]
    return stored[names[name]] if name in names else None


def _difference(stored: _Stored, part: str, lookup: Callable[[str], Tensor | None], other: str) -> str:
    """In how many tensors a part differs from other weights, and by how much."""
    differing, largest, strange, count = 0, 0.0, 0, len(stored.parts[part])
    for name, tensor in stored.of(part):
        beside = lookup(name)
        if beside is None or beside.shape != tensor.shape:
            strange += 1
        elif not _equal(tensor, beside):
            differing += 1
            largest = max(largest, float((tensor.float() - beside.float()).abs().max()))
    if not count:
        return "none"
    unknown = f"; {strange} have no counterpart there" if strange else ""
    if not differing and strange < count:
        return f"equal to {other} in {count - strange} of {count} tensors{unknown}"
    return f"differs from {other} in {differing} of {count} tensors, by up to {largest:.2g}{unknown}"


def _equal(tensor: Tensor, other: Tensor) -> bool:
    """Equal as stored: the other is rounded to the tensor's type."""
    return tensor.shape == other.shape and torch.equal(tensor, other.to(tensor.dtype))


def _refusal(folder: Path, stored: _Stored, layout: str) -> str:
    if layout == "B":
        return (
            f"{folder}: a plain merged model without Q-Former: the authors' merge script drops it "
            "(authors_code.md C2), and there is no memory without it; convert the run folder, which has it"
        )
    empty = [name for part in stored.parts.values() for name in part.values() if 0 in stored.shape(name)]
    if empty:
        return (
            f"{folder}: {len(empty)} tensors are empty, the first is {empty[0]}: ZeRO-3 left the weights out "
            "(authors_code.md C4); they are lost unless another file has them"
        )
    if layout == "C" and not stored.parts["qformer"]:
        return f"{folder}: {missing_qformer(folder)}"
    if layout == "A" and not stored.parts["reader"]:
        return f"{folder}: has no reader ({READER_PREFIX}*): the checkpoint is incomplete, copy it again"
    return ""


def missing_qformer(folder: Path) -> str:
    """What to do where a run folder's safetensors have no Q-Former."""
    pickled = folder / "non_lora_state_dict.bin"
    if not pickled.is_file():
        return f"has no Q-Former ({QFORMER_PREFIX}*): no memory can be computed from it"
    kept = f"{{k: v.contiguous() for k, v in torch.load('{pickled}', weights_only=True).items()"
    return (
        f"its Q-Former is in {pickled.name}, a pickle, which can run code when opened and is never loaded. "
        'Where you trust it: python -c "import torch, safetensors.torch as s; '
        f"s.save_file({kept} if 'knowledge_processor' in k}}, '{folder / REST}')\""
    )
