"""Backbones of the transformers library: processor, chat template and `generate`, all unmodified."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from comem.backbones.base import (
    GREEDY,
    Answer,
    ChatProcessor,
    Conversations,
    GenerationConfig,
    Injection,
    RowMemories,
    Watch,
    WatchRows,
    has_video,
)
from comem.backbones.positions import fresh_positions, with_token_types
from comem.backbones.prepared import evaluating, seeded
from comem.backbones.specs import (
    BackboneError,
    BackboneSpec,
    check_attention,
    load_model,
    load_processor,
    resolve_backbone,
)

KINDS = ("", "4bit")


def quantization_config(kind: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """transformers' quantization config, None for none.

    Args:
        kind: "" or "4bit": NF4 with double quantisation, the output layer left as it is.
        dtype: in which the products are computed.

    Raises:
        BackboneError: another kind, or the package is missing.
    """
    if kind not in KINDS:
        raise BackboneError(f"quantization {kind!r}; known: {', '.join(KINDS[1:])}, or empty for none")
    if not kind:
        return None
    if find_spec("bitsandbytes") is None:
        raise BackboneError("quantization=4bit needs the package: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


logger = logging.getLogger(__name__)

# What a model's generation_config.json asks for beside our own settings. How long, how greedily and by which
# strategy is decoded, `GenerationConfig` says, alike for all models. What else comes with the weights (words
# that are barred, texts that end an answer, a least length …) is meant by those who made them and holds on
# every path: transformers' `generate` does it, and the engine steps aside.

#: Strategies and outputs of others, which are switched off: an answer is one row of tokens.
_STRATEGIES = """
    num_return_sequences num_beams num_beam_groups early_stopping length_penalty diversity_penalty constraints
    force_words_ids penalty_alpha dola_layers low_memory use_mtp is_assistant num_assistant_tokens
    num_assistant_tokens_schedule assistant_confidence_threshold assistant_early_exit assistant_lookbehind
    target_lookbehind assistant_ensemble_weight speculation_type prompt_lookup_num_tokens
    max_matching_ngram_size continuous_batching_config cache_implementation return_dict_in_generate
    output_attentions output_hidden_states output_scores output_logits
""".split()
#: Decided by us, or without effect on which token is the best; the rest of a config acts, unless it is empty.
_OURS = frozenset(
    """
    max_length max_new_tokens do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff
    eta_cutoff repetition_penalty renormalize_logits use_cache cache_config max_cache_len compile_config
    disable_compile pad_token_id bos_token_id eos_token_id decoder_start_token_id transformers_version
""".split()
) | frozenset(_STRATEGIES)
_FACTORS = ("encoder_repetition_penalty", "guidance_scale")  # 1 asks for nothing


def asked_for(model: Any) -> dict[str, Any]:
    """The entries of a model's generation config that act on its answers beside our own settings."""
    config = getattr(model, "generation_config", None)
    values = {} if config is None else config.to_dict()
    return {
        name: value
        for name, value in values.items()
        if name not in _OURS and not name.startswith("_") and not _asks_for_nothing(name, value)
    }


def _asks_for_nothing(name: str, value: Any) -> bool:
    return value in (None, 0, "", [], {}) or (name in _FACTORS and value == 1)


@contextmanager
def plain_decoding(model: Any) -> Iterator[None]:
    """Inside, the model's generation config names no strategy; afterwards it is what it was."""
    from transformers import GenerationConfig

    before, fresh = model.generation_config, GenerationConfig()
    model.generation_config = copy.deepcopy(before)
    for name in _STRATEGIES:
        if hasattr(before, name):
            setattr(model.generation_config, name, getattr(fresh, name, None))
    try:
        yield
    finally:
        model.generation_config = before


def decoding_arguments(model: Any, tokenizer: Any) -> dict[str, Any]:
    """What `generate` is told beside our settings."""
    from transformers import LogitsProcessorList

    needed = asked_for(model).keys() & {"stop_strings", "token_healing"}
    return {
        "logits_processor": LogitsProcessorList([refuse_nan]),
        **({"tokenizer": tokenizer} if needed else {}),
    }


def stop_tokens(model: Any) -> tuple[int, ...]:
    """The ids that end an answer."""
    ids = model.generation_config.eos_token_id
    return () if ids is None else tuple(ids) if isinstance(ids, (list, tuple)) else (ids,)


def refuse_nan(input_ids: Tensor, scores: Tensor) -> Tensor:
    """A logits processor that changes nothing.

    Args:
        input_ids: so far `(b, l)`.
        scores: of the next token `(b, v)`.

    Raises:
        ValueError: numbers that are none, of which `argmax` makes a token all the same.
    """
    if bool(torch.isnan(scores).any()):
        raise ValueError(NOT_A_NUMBER)
    return scores


NOT_A_NUMBER = (
    "the model's scores have NaN in them: load it in bfloat16 or float32 (dtype), or look at memory and"
    " weights"
)


_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


@dataclass(frozen=True)
class HFBackbone:
    """A model with its processor.

    Attributes:
        spec: the row that says what the model can do.
        model: frozen, with `generate`.
        processor: a processor, or a tokenizer for a text-only model.
        min_pixels, max_pixels: limits for images; None leaves the processor's own.
    """

    accelerates: ClassVar[bool] = True

    spec: BackboneSpec
    model: Any
    processor: Any
    min_pixels: int | None = None
    max_pixels: int | None = None
    #: One call of the model at a time: what a call sets on it (hooks, positions) is of that call.
    _alone: Any = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _ = self.process  # checks the limits

    @cached_property
    def process(self) -> ChatProcessor:
        """Renders, tokenizes and batches conversations."""
        return ChatProcessor(
            self.spec, self.processor, self.min_pixels, self.max_pixels, context=context_of(self.model)
        )

    @property
    def _table(self) -> Tensor:
        """Input embeddings `(v, d)`."""
        return cast(Tensor, self.model.get_input_embeddings().weight)

    @property
    def hidden_size(self) -> int:
        """Width `d` of the input embeddings."""
        return self._table.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the input embeddings lie, and so where inputs are to go."""
        return self._table.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the input embeddings."""
        return self._table.dtype

    def place(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs on the model's device, pixels in its dtype."""
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }

    def prompt_lengths(self, conversations: Conversations) -> list[int]:
        """Positions of each prompt, padding not counted."""
        lengths = {
            row: int(length)
            for rows in self.process.groups(conversations)
            for row, length in zip(rows, self._lengths([conversations[row] for row in rows]), strict=True)
        }
        return [lengths[row] for row in range(len(conversations))]

    def _lengths(self, conversations: Conversations) -> list[int]:
        return self.process(conversations)["attention_mask"].sum(dim=1).tolist() if conversations else []

    def ahead(self, conversations: Conversations) -> None:
        """Nothing: transformers' `generate` is given all in one go (see `comem.engine`)."""

    def generate(
        self,
        conversations: Conversations,
        memories: RowMemories | None = None,
        config: GenerationConfig = GREEDY,
        injection: Injection | None = None,
        watch: Watch | None = None,
    ) -> list[Answer]:
        """Answer a batch of conversations, each with its own memory or none.

        Args:
            conversations: the batch, any number of them.
            memories: what the injection takes; embeddings are converted to the model's dtype and device
                here, their width is not.
            config: how answers are generated.
            injection: how they reach the model.
            watch: sees every token as it is made.

        Raises:
            BackboneError: the model takes no such memories.
            ImageError: an image that cannot be opened.
            ValueError: as the injection's `attach`.
        """
        given = self._checked(len(conversations), memories, injection)
        if injection is None and any(has_video(chat) for chat in conversations):
            raise BackboneError(
                "a video without a memory: ask in the mode video_memory, with an encoder of videos"
            )
        answers: dict[int, Answer] = {}
        for rows in self.process.groups(conversations) if conversations else ():
            some = [conversations[row] for row in rows], [given[row] for row in rows]
            seen = None if watch is None else WatchRows(watch, rows, len(conversations))
            answers |= zip(rows, self._answer(*some, config, injection, seen), strict=True)
        return [answers[row] for row in range(len(conversations))]

    def _checked(self, rows: int, memories: RowMemories | None, injection: Injection | None) -> RowMemories:
        """One memory a row, None for none."""
        if memories is None:
            return [None] * rows
        if len(memories) != rows:
            raise ValueError(f"{len(memories)} memories for {rows} rows: one per row, None for none")
        if any(memory is not None for memory in memories):
            if injection is None:
                raise ValueError("memories, but no injection: say how they reach the model (injection=…)")
            injection.check(self.spec)
        return memories

    def _answer(
        self, conversations: Conversations, memories: RowMemories, config: GenerationConfig,
        injection: Injection | None, watch: Watch | None = None,
    ) -> list[Answer]:  # fmt: skip
        """One call of the model's `generate`."""
        start = time.perf_counter()
        inputs = self.place(self.process(conversations))
        decoding = {**config.arguments(), "pad_token_id": self.process.tokenizer.pad_token_id}
        decoding |= decoding_arguments(self.model, self.process.tokenizer)
        if watch is not None:
            decoding["stopping_criteria"] = [_criterion(watch)]
        with ExitStack() as stack:
            stack.enter_context(self._alone)
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluating(self.model))
            stack.enter_context(plain_decoding(self.model))
            stack.enter_context(seeded(config, self.device))
            if injection is None:
                stack.enter_context(fresh_positions(self.model))
                inputs = with_token_types(self.model, inputs)
            else:
                placed = [self._placed(memory, injection) for memory in memories]
                inputs = stack.enter_context(injection.attach(self.model, inputs, placed))
            new = self._new_tokens(inputs, decoding)
        texts = self.process.tokenizer.batch_decode(new, skip_special_tokens=True)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        seconds = (time.perf_counter() - start) / len(texts)
        sizes = [0 if memory is None else len(memory) for memory in memories]
        apart = injection is not None and not injection.in_sequence  # not among the positions
        return [
            Answer(text.strip(), size, length + size * apart, seconds)
            for text, size, length in zip(texts, sizes, lengths, strict=True)
        ]

    def _new_tokens(self, inputs: Mapping[str, Any], decoding: Mapping[str, Any]) -> Tensor:
        """What `generate` adds to the prompts, `(b, t)`."""
        try:
            tokens = self.model.generate(**inputs, **decoding)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ImportError) as error:
            if str(error) == NOT_A_NUMBER or not (asked := asked_for(self.model)):
                raise
            raise BackboneError(
                f"{self.spec.source or self.spec.name}: cannot decode with what its generation_config.json"
                f" asks for ({', '.join(asked)}): {error}; repair or remove the entry"
            ) from error
        return cast(Tensor, tokens[:, inputs["input_ids"].shape[1] :])

    def _placed(self, memory: Any, injection: Injection) -> Any:
        """Vectors as the model has them."""
        vectors = memory is not None and injection.takes == "vectors"
        return memory.to(self.device, self.dtype, non_blocking=True) if vectors else memory


def _criterion(watch: Watch) -> Callable[..., Tensor]:
    """A watch as a stopping criterion of transformers' `generate`."""

    def ends(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which rows `(b,)` end."""
        return torch.tensor(list(watch(ids[:, -1].tolist())), dtype=torch.bool, device=ids.device)

    return ends


def context_of(model: Any) -> int | None:
    """The longest sequence that a model was made for, in tokens; None if it does not say."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def load_backbone(
    name_or_path: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attn: str | None = None,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    trust_remote_code: bool = False,
    quantization: str = "",
) -> HFBackbone:
    """Load a model and its processor, frozen and in eval mode, from safetensors only.

    Args:
        name_or_path: a row of `BACKBONES`, a local model folder, or a row's hub repository.
        dtype: "auto" as stored, or "float32", "bfloat16", "float16".
        device: "cpu", "cuda", "cuda:1", or "auto" (spread over all GPUs); by default a GPU if there is one.
        attn: "sdpa", "eager", "flash_attention_2"; None lets transformers choose.
        min_pixels: least size of an image; None as in the processor.
        max_pixels: largest size of an image; None as in the processor.
        trust_remote_code: run the code in the model's repository, which a few rows need.
        quantization: "4bit" holds the weights in NF4 (`comem.backbones.hf`).

    Raises:
        UnknownNameError: the name is in no row.
        BackboneError: weights that cannot be reached, or are incomplete.
    """
    spec = resolve_backbone(name_or_path)
    if isinstance(dtype, str) and dtype != "auto" and dtype not in _DTYPES:
        raise BackboneError(f"dtype {dtype!r}: give auto, {', '.join(_DTYPES)}")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if spec.adapter:  # a `Backbone` without tensors: it answers, and takes no memory
        return import_module(spec.adapter).load(  # type: ignore[no-any-return]
            spec, _DTYPES.get(str(dtype), dtype), device, trust_remote_code
        )
    if spec.name == "toy" and not Path(spec.source).is_dir():
        raise BackboneError(
            f"{spec.source}: the embedded model is missing; clone again, or train it with scripts/toy"
        )
    options = {
        "dtype": _DTYPES.get(str(dtype), dtype), "quantization_config": quantization_config(quantization),
        "device_map": None if str(device) == "cpu" else str(device),
    }  # fmt: skip
    check_attention(attn)  # before anything is read
    processor = load_processor(spec.source, spec.processor_class, needs=spec.needs)
    model = load_model(spec.source, spec.model_class, attn, needs=spec.needs, **options)
    if not spec.declared:
        from comem.backbones.probe import looked_up  # here: few models need it

        spec = looked_up(spec, model, processor)
    logger.info("loaded %s from %s (%s, %s)", spec.name, spec.source, model.dtype, device)
    return HFBackbone(spec, model.eval().requires_grad_(False), processor, min_pixels, max_pixels)
