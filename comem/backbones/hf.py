"""Backbones of the transformers library: processor, chat template and `generate`, all unmodified."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from comem.backbones.base import Answer, GenerationConfig
from comem.backbones.chat import ChatProcessor
from comem.backbones.soft_prefix import soft_prefix
from comem.backbones.specs import BackboneError, BackboneSpec, resolve_backbone
from comem.types import Message

logger = logging.getLogger(__name__)

_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


@dataclass(frozen=True)
class HFBackbone:
    """A model with its processor.

    Attributes:
        spec: the row that says what the model can do.
        model: frozen, with `generate`.
        processor: a processor, or a tokenizer for a text-only model.
        min_pixels, max_pixels: limits for pictures; None leaves the processor's own.
    """

    spec: BackboneSpec
    model: Any
    processor: Any
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        _ = self.chat  # checks the limits

    @cached_property
    def chat(self) -> ChatProcessor:
        return ChatProcessor(self.spec, self.processor, self.min_pixels, self.max_pixels)

    @property
    def _table(self) -> Tensor:
        """Input embeddings `(v, d)`."""
        return self.model.get_input_embeddings().weight

    @property
    def hidden_size(self) -> int:
        return self._table.shape[1]

    @property
    def device(self) -> torch.device:
        return self._table.device

    @property
    def dtype(self) -> torch.dtype:
        return self._table.dtype

    @cached_property
    def placeholder_id(self) -> int | None:
        """An id for memory positions that no text yields: a spare row of the table, or an unused special
        token (texts are cleaned of those). None if there is neither; `soft_prefix` then looks for one."""
        if len(self.chat.tokenizer) < len(self._table):
            return len(self._table) - 1
        return self.chat.tokenizer.get_vocab().get("<|fim_pad|>")

    def process(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        add_generation_prompt: bool = True,
        padding_side: Literal["left", "right"] = "left",
    ) -> dict[str, Tensor]:
        """Render, tokenize and batch, see `ChatProcessor`."""
        return self.chat(
            conversations, add_generation_prompt=add_generation_prompt, padding_side=padding_side
        )

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        prefixes: Sequence[Tensor | None] | None = None,
        config: GenerationConfig = GenerationConfig(),  # noqa: B008 (frozen)
    ) -> list[Answer]:
        """Answer a batch of conversations, each with its own memory `(m, d)` or none.

        Memories are converted to the model's dtype and device here; their width is not.

        Raises:
            BackboneError: the model takes no soft prefix.
            ImageError: an image that cannot be opened.
            ValueError: as `soft_prefix`.
        """
        if not conversations:
            return []
        start = time.perf_counter()
        memories = self._memories(len(conversations), prefixes)
        inputs = {name: self._place(value) for name, value in self.process(conversations).items()}
        prefixed = soft_prefix(self.model, inputs, memories, self.placeholder_id)
        with _evaluating(self.model), torch.no_grad(), _seeded(config, self.device), prefixed as extended:
            tokens = self.model.generate(**extended, **self._decoding(config))
        new = tokens[:, extended["input_ids"].shape[1] :]
        texts = self.chat.tokenizer.batch_decode(new, skip_special_tokens=True)
        lengths = extended["attention_mask"].sum(dim=1).tolist()
        sizes = [0 if memory is None else len(memory) for memory in memories]
        seconds = (time.perf_counter() - start) / len(texts)
        return [
            Answer(text.strip(), context_tokens=size, prompt_tokens=length, seconds=seconds)
            for text, size, length in zip(texts, sizes, lengths, strict=True)
        ]

    def _memories(self, rows: int, prefixes: Sequence[Tensor | None] | None) -> list[Tensor | None]:
        if prefixes is None:
            return [None] * rows
        if not self.spec.soft_prefix and any(prefix is not None for prefix in prefixes):
            raise BackboneError(f"{self.spec.name} takes no memory; use the baseline or rag mode with it")
        return [None if prefix is None else prefix.to(self.device, self.dtype) for prefix in prefixes]

    def _place(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)

    def _decoding(self, config: GenerationConfig) -> dict[str, Any]:
        """Arguments of `generate`: all of them, because hub models bring sampling defaults along."""
        sampling = config.temperature > 0
        return {
            "max_new_tokens": config.max_new_tokens,
            "do_sample": sampling,
            "temperature": config.temperature if sampling else 1.0,  # 1.0, 50: unset, in transformers
            "top_p": config.top_p if sampling else 1.0,
            "top_k": 0 if sampling else 50,
            "repetition_penalty": config.repetition_penalty,
            "num_beams": 1,
            "pad_token_id": self.chat.tokenizer.pad_token_id,
        }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off; a model that was being trained goes on training after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _seeded(config: GenerationConfig, device: torch.device) -> Iterator[None]:
    """Sampling starts from the config's seed and leaves the caller's random state alone."""
    if config.temperature == 0:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        yield


def load_backbone(
    name_or_path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attn: str | None = None,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> HFBackbone:
    """Load a model and its processor, frozen and in eval mode, from safetensors only.

    Args:
        name_or_path: a row of `BACKBONES`, a local model folder, or a row's hub repository.
        dtype: "auto" as stored, or "float32", "bfloat16", "float16".
        device: "cpu", "cuda", "cuda:1", or "auto" (spread over all GPUs); by default a GPU if there is one.
        attn: "sdpa", "eager", "flash_attention_2"; None lets transformers choose.
        min_pixels, max_pixels: limits for pictures; None as in the processor.

    Raises:
        UnknownNameError: the name is in no row.
        BackboneError: weights that cannot be reached, or are incomplete.
    """
    import transformers

    spec = resolve_backbone(name_or_path)
    if isinstance(dtype, str) and dtype != "auto" and dtype not in _DTYPES:
        raise BackboneError(f"dtype {dtype!r}: give auto, {', '.join(_DTYPES)}")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        processor = getattr(transformers, spec.processor_class).from_pretrained(spec.source)
        model, info = getattr(transformers, spec.model_class).from_pretrained(
            spec.source,
            dtype=_DTYPES.get(str(dtype), dtype),
            attn_implementation=attn,
            use_safetensors=True,
            output_loading_info=True,
            device_map=None if str(device) == "cpu" else str(device),
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise BackboneError(_unreachable(spec, error)) from error
    _check_complete(spec, info, processor)
    logger.info("loaded %s from %s (%s, %s)", spec.name, spec.source, model.dtype, device)
    return HFBackbone(spec, model.eval().requires_grad_(False), processor, min_pixels, max_pixels)


def _unreachable(spec: BackboneSpec, error: Exception) -> str:
    """Why a model is not to be had, and what helps."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if Path(spec.source).is_dir():
        return f"{spec.source}: the model folder is incomplete or damaged ({reason}); copy it again"
    if spec.name == "toy":
        return f"{spec.source}: the embedded model is missing; clone again, or train it with scripts/toy"
    return (
        f"{spec.source} cannot be loaded ({reason}). Remedies: download it once with "
        f"`hf download {spec.source}` and set HF_HOME to the folder that holds its cache; give the path "
        "of a local model folder; or use the embedded model 'toy', which needs no download"
    )


def _check_complete(spec: BackboneSpec, info: dict[str, Any], processor: Any) -> None:
    """transformers fills missing weights with random ones and a missing vocabulary with none, and goes on."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
        raise BackboneError(f"{spec.source}: the tokenizer knows no text: tokenizer.json is missing")
    faults = sorted(map(str, [*info["missing_keys"], *info.get("mismatched_keys", ())]))
    if faults:
        raise BackboneError(
            f"{spec.source}: {len(faults)} weights are missing or have another shape, {faults[0]} for one; "
            "the folder is half-written or belongs to another config: copy it again"
        )
