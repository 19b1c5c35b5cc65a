"""One model on the bench: with its encoder or bare, its engines, and a bank of memories on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from comem.backbones.packing import pack_attention
from comem.memory.encoder import MemoryEncoder, hidden_size
from comem.memory.lora import LoraSettings, lora_layers
from comem.memory.qformer import QFormerConfig
from comem.memory.store.forms import PLAIN_FORMS
from comem.memory.store.layout import EncoderInfo
from comem.memory.store.reader import MemoryStore
from comem.memory.store.serve import StoredMemories
from comem.memory.store.writer import StoreWriter, create_store
from comem.profiling.cells import QUERIES
from comem.profiling.decoding import ENGINES, Attention, Decoding, place
from comem.profiling.prompts import Lengths, PromptMaker

_TOGETHER = 256  # memories written at once


class Bench:
    """What every measurement of one model shares; a context manager that removes its bank.

    The model is bare (no LoRA layers) for modes that need no encoder, and wears LoRA while an encoder is in
    the loop; attention and kernels are those of transformers where its own `generate` is measured. What is
    timed is what a user of that mode and engine runs, whatever was measured before.

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
        self._encoder: MemoryEncoder | None = None
        self._swap: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []  # parent, name, bare, with LoRA
        self._kernels: list[tuple[nn.Module, Any]] = []
        self._engines: dict[str, Decoding] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._memories: StoredMemories | None = None

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    def weights_bytes(self) -> int:
        """Bytes of the reader's weights, each counted once."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def bare(self, attention: Attention = "transformers") -> Any:
        """The model without LoRA layers.

        Args:
            attention: "transformers" for its `sdpa` and its norms, "packed" for the engine's attention alone,
                "engine" for all that the engine puts on a model.
        """
        for parent, name, bare, _ in self._swap:
            setattr(parent, name, bare)
        self._dress(attention)
        return self.model

    def encoder(self) -> MemoryEncoder:
        """The paper's encoder, untrained, on the same weights; the model wears its LoRA from here on."""
        if self._encoder is None:
            with torch.device(self.device):
                qformer = QFormerConfig(hidden_size(self.model), num_queries=QUERIES)
                self._encoder = MemoryEncoder.new(self.model, None, LoraSettings(), qformer)
            self._encoder.eval().requires_grad_(False)
            for path, layer in lora_layers(self.model).items():
                parent, _, name = path.rpartition(".")
                bare = layer.get_base_layer()
                self._swap.append((self.model.get_submodule(parent), name, bare, layer))
        for module, child, _, wearing in self._swap:
            setattr(module, child, wearing)
        self._dress("engine")
        return self._encoder

    def _dress(self, attention: Attention) -> None:
        """Attention and kernels; those that an encoder or engine has set are kept to be put on again."""
        for module, forward in self._kernels:
            vars(module)["forward"] = forward
        worn = [module for module in self.model.modules() if _has_kernel(module)]
        self._kernels = [(module, vars(module)["forward"]) for module in worn]
        if attention != "engine":
            for module in worn:
                del vars(module)["forward"]
        if attention == "transformers":
            self.model.set_attn_implementation("sdpa")
        else:
            pack_attention(self.model)

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
            self._engines[engine] = ENGINES[engine].make(self.model, self.maker.placeholder)
        return self._engines[engine]

    def release(self) -> None:
        """Forget the engines, with the caches that they may hold; they are made again when asked for."""
        self._engines.clear()

    def memories(self, count: int) -> StoredMemories:
        """A bank on disk with at least so many random memories of norm √d, named "0", "1" …

        Nothing is cached in RAM beyond the system's page cache: every read copies out of the mapped files.
        """
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="comem-profile-")
        if self._memories is None or len(self._memories) < count:
            start = 0 if self._memories is None else len(self._memories)
            _fill(Path(self._folder.name), start, count, hidden_size(self.model), self.dtype)
            self._memories = StoredMemories(MemoryStore(self._folder.name), cache_items=0)
        return self._memories

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.bare()
        if self._memories is not None:
            self._memories.store.close()
        if self._folder is not None:
            self._folder.cleanup()


def _has_kernel(module: nn.Module) -> bool:
    """A norm whose forward was set on the module itself (`comem.backbones.norms`)."""
    return type(module).__name__.endswith("Norm") and "forward" in vars(module)


def _fill(folder: Path, start: int, end: int, width: int, dtype: torch.dtype) -> None:
    form = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    create_store(folder, PLAIN_FORMS[form](QUERIES, width), EncoderInfo("0" * 64))
    random = np.random.default_rng(start)
    with StoreWriter(folder, durable=False) as writer:
        for first in range(start, end, _TOGETHER):
            ids = [str(row) for row in range(first, min(first + _TOGETHER, end))]
            memories = random.standard_normal((len(ids), QUERIES, width), dtype=np.float32)
            writer.append(ids, [bytes(16)] * len(ids), memories)
