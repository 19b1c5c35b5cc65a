"""One model on the bench: with its encoder or bare, its engines, and a bank of memories on disk."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from comem.bank.format import EncoderInfo
from comem.bank.forms import PLAIN_FORMS
from comem.bank.reader import MemoryStore
from comem.bank.serve import LiveBank
from comem.bank.writer import StoreWriter, create_store
from comem.engine.engine import Decoder
from comem.memory.encoder import TrainableEncoder, hidden_size
from comem.memory.injection import Prefix
from comem.memory.lora import adapters_off, lora_layers
from comem.memory.qformer_encoder import paper_encoder
from comem.profiling.prompts import FAMILIES, Lengths, PromptMaker
from comem.profiling.shapes import SHAPES, random_model
from comem.profiling.timing import QUERIES, Cell, Run, now
from comem.registry import Registry, UnknownNameError, nearest


def place(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The inputs on the device."""
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


class Decoding(ABC):
    """An engine: answers a batch with exactly so many tokens, greedily.

    Attributes:
        records: whether it records its steps, so that only a whole answer warms it up.

    Args:
        model: that never ends an answer by itself.
        placeholder: an id that its prompts do not contain.
    """

    records: ClassVar[bool] = False

    def __init__(self, model: Any, placeholder: int) -> None:
        self.model, self.prefix = model, Prefix((placeholder,))

    @abstractmethod
    def __call__(
        self, inputs: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], new_tokens: int
    ) -> Run:
        """Inputs `(b, l)` of a processor, on the CPU; per row a memory `(m, d)` or None."""


class TransformersDecoding(Decoding):
    """`generate` of transformers."""

    @torch.no_grad()
    def __call__(
        self, inputs: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], new_tokens: int
    ) -> Run:
        """As `Decoding.__call__`."""
        from transformers import StoppingCriteriaList

        device = self.model.get_input_embeddings().weight.device
        stamps: list[float] = []

        def stamp(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            if not stamps:
                stamps.append(now(device))
            return torch.zeros(len(ids), dtype=torch.bool, device=device)

        start, stops = now(device), StoppingCriteriaList([stamp])
        placed = place(inputs, device)
        with adapters_off(self.model), self.prefix.attach(self.model, placed, prefixes) as extended:
            ids = self.model.generate(
                **extended, max_new_tokens=new_tokens, do_sample=False, stopping_criteria=stops
            )
        return Run(stamps[0] - start, now(device) - start, new_tokens, ids=ids[:, -new_tokens:])


class EngineDecoding(Decoding):
    """`comem.engine`; preparing the prompt is part of the time, as if no thread had done it ahead."""

    records = True

    def __init__(self, model: Any, placeholder: int) -> None:
        super().__init__(model, placeholder)
        self.decoder = Decoder(model)
        if not self.decoder.prepared.packs:
            raise ValueError(
                "the engine comem needs a model whose attention can be packed: choose transformers"
            )

    def __call__(
        self, inputs: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], new_tokens: int
    ) -> Run:
        """As `Decoding.__call__`."""
        device = self.decoder.device
        start = now(device)
        sizes = [0 if prefix is None else len(prefix) for prefix in prefixes]
        prompt = self.decoder.prepare(inputs, sizes, self.prefix)
        spent = now(device) - start
        with adapters_off(self.model):
            done = self.decoder.generate(prompt, prefixes, new_tokens)
        first, last = spent + done.first_seconds, spent + done.seconds
        return Run(first, last, new_tokens, {"prepare": spent}, done.tokens)


ENGINES: Registry[type[Decoding]] = Registry(
    "engine", {"comem": EngineDecoding, "transformers": TransformersDecoding}
)


def open_model(name: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The frozen model of that name, which never ends an answer early, and its `ChatProcessor`.

    Args:
        name: a row of `SHAPES` (random weights; no processor: None), else a backbone or a model folder.
        device: where it goes.
        dtype: of its weights.

    Raises:
        ValueError: the name is in no table, or the backbone is of another family.
    """
    if name in SHAPES:
        return random_model(SHAPES[name], device, dtype), None
    from comem.backbones.hf import load_backbone

    try:
        backbone = load_backbone(name, dtype, device)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error}; shapes with random weights: {', '.join(SHAPES)}") from error
    family = backbone.model.config.model_type
    if family not in FAMILIES:
        raise ValueError(f"{name}: model_type {family!r} is not profiled; {nearest(family, list(FAMILIES))}")
    backbone.model.generation_config.eos_token_id = None  # answers of one length
    return backbone.model, backbone.process


_TOGETHER = 256  # memories written at once


class Bench:
    """What every measurement of one model shares; a context manager that removes its bank.

    The model is bare (no LoRA layers) for modes that need no encoder, and has LoRA while an encoder is in
    the loop. What is timed is what a user of that mode and engine runs, whatever was measured before.

    Args:
        model: frozen, in eval mode, its end of answer off.
        lengths: of items, questions and answers.
        encode_batch: items per call of the encoder.
    """

    def __init__(self, model: Any, lengths: Lengths, encode_batch: int = 32) -> None:
        if encode_batch < 1:
            raise ValueError(f"encode_batch={encode_batch}: must be at least 1")
        self.model, self.lengths, self.encode_batch = model, lengths, encode_batch
        self.maker = PromptMaker(model, lengths)
        self._encoder: TrainableEncoder | None = None
        self._swap: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []  # parent, name, bare, with LoRA
        self._engines: dict[str, Decoding] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._memories: LiveBank | None = None

    @property
    def device(self) -> torch.device:
        """Of the model's input embeddings."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's input embeddings."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    def weights_bytes(self) -> int:
        """Bytes of the reader's weights, each counted once."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def bare(self) -> Any:
        """The model without LoRA layers."""
        for parent, name, bare, _ in self._swap:
            setattr(parent, name, bare)
        return self.model

    def encoder(self) -> TrainableEncoder:
        """The paper's encoder, untrained, on the same weights; the model has its LoRA from here on."""
        if self._encoder is None:
            self._encoder = encoder = paper_encoder(self.model)
            encoder.eval().requires_grad_(False)
            for path, layer in lora_layers(self.model).items():
                parent, _, name = path.rpartition(".")
                bare = layer.get_base_layer()
                self._swap.append((self.model.get_submodule(parent), name, bare, layer))
        for module, child, _, layer in self._swap:
            setattr(module, child, layer)
        return self._encoder

    @torch.no_grad()
    def encode(self, batches: Sequence[dict[str, Tensor]]) -> Tensor:
        """Memories `(n, q, d)` of items, a batch per call of the encoder; after `encoder()`."""
        if self._encoder is None:
            raise ValueError("call encoder() first: it puts LoRA on the model, which is not to be timed")
        return torch.cat([self._encoder(place(batch, self.device)) for batch in batches])

    def item_batches(self, count: int) -> list[dict[str, Tensor]]:
        """Ready inputs for that many different items."""
        sizes = [min(self.encode_batch, count - start) for start in range(0, count, self.encode_batch)]
        return [self.maker.items(size) for size in sizes]

    def decoding(self, engine: str) -> Decoding:
        """An engine on the model; made once."""
        if engine not in self._engines:
            self._engines[engine] = ENGINES[engine](self.model, self.maker.placeholder)
        return self._engines[engine]

    def release(self) -> None:
        """Forget the engines, with the caches that they may hold; they are made again when asked for."""
        self._engines.clear()

    def memories(self, count: int) -> LiveBank:
        """A bank on disk with at least so many random memories of norm √d, named "0", "1", and so on.

        Nothing is cached in RAM beyond the system's page cache: every read copies out of the mapped files.
        """
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="comem-profile-")
        if self._memories is None or len(self._memories) < count:
            start = 0 if self._memories is None else len(self._memories)
            _fill(Path(self._folder.name), start, count, hidden_size(self.model), self.dtype)
            self._memories = LiveBank(None, MemoryStore(self._folder.name), 0)
        return self._memories

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.bare()
        if self._memories is not None:
            self._memories.close()
        if self._folder is not None:
            self._folder.cleanup()


def _fill(folder: Path, start: int, end: int, width: int, dtype: torch.dtype) -> None:
    form = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    create_store(folder, PLAIN_FORMS[form](QUERIES, width), EncoderInfo("0" * 64))
    random = np.random.default_rng(start)
    with StoreWriter(folder, durable=False) as writer:
        for first in range(start, end, _TOGETHER):
            ids = [str(row) for row in range(first, min(first + _TOGETHER, end))]
            memories = random.standard_normal((len(ids), QUERIES, width), dtype=np.float32)
            writer.append(ids, [bytes(16)] * len(ids), memories)


#: Answers the batch once with that many tokens.
Answer = Callable[[int], Run]
#: Readies what is not timed (ids, pixels) for a cell.
Way = Callable[[Bench, Cell], Answer]


def _baseline(bench: Bench, cell: Cell) -> Answer:
    bench.bare()
    return _answering(bench, cell, bench.maker.prompts(cell.batch))


def _rag(bench: Bench, cell: Cell) -> Answer:
    bench.bare()
    return _answering(bench, cell, bench.maker.prompts(cell.batch, cell.k))


def _comem(bench: Bench, cell: Cell) -> Answer:
    """The encoder in the loop: every question's items are encoded, then it is answered."""
    items = bench.item_batches(cell.batch * cell.k)
    read = {"encode": lambda: list(bench.encode(items).split(cell.k))}  # type: ignore[no-untyped-call]
    bench.encoder()
    return _answering(bench, cell, bench.maker.prompts(cell.batch), read)


def _comem_bank(bench: Bench, cell: Cell) -> Answer:
    """Every question's memories are read from a bank on disk, then it is answered."""
    bench.bare()
    store = bench.memories(cell.batch * cell.k)
    ids = [[str(row * cell.k + i) for i in range(cell.k)] for row in range(cell.batch)]
    read = {"read": lambda: [store.select(row).embeddings.to(bench.device, bench.dtype) for row in ids]}
    return _answering(bench, cell, bench.maker.prompts(cell.batch), read)


def _answering(
    bench: Bench, cell: Cell, inputs: Mapping[str, Tensor],
    read: Mapping[str, Callable[[], list[Tensor]]] | None = None,
) -> Answer:  # fmt: skip
    """Get every row's memories `(k, q, d)` by the work that has a part's name, and answer behind them."""
    decoding = bench.decoding(cell.engine)

    def answer(new_tokens: int) -> Run:
        prefixes: list[Tensor | None] = [None] * cell.batch
        spent, start = dict[str, float](), now(bench.device)
        for part, memories in (read or {}).items():
            prefixes = [memory.flatten(0, 1) for memory in memories()]
            spent[part] = now(bench.device) - start
        done, before = decoding(inputs, prefixes, new_tokens), sum(spent.values())
        first, last = before + done.first_seconds, before + done.seconds
        return Run(first, last, new_tokens, {**spent, **done.parts}, done.ids)

    return answer


WAYS: Registry[Way] = Registry(
    "mode", {"baseline": _baseline, "rag": _rag, "comem": _comem, "comem-bank": _comem_bank}
)
