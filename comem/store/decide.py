"""Typed questions answered by probabilities, from one forward pass each, with memories before the model.

The prompts, labels and answers are those of transformers' decision pipeline; what is added here are
memories, put before each prompt as before any question.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from comem.backbones.positions import fresh_positions
from comem.backbones.prepared import evaluating
from comem.io.images import open_image
from comem.memory.lora import adapters_off
from comem.store.table import MemoryFolderError
from comem.types import ImageRef

if TYPE_CHECKING:
    from comem.backbones.base import Backbone, Injection

#: Tried in this order where the model's tokenizer does not have transformers' own labels as single tokens.
_NOUL = (["Yes", "No"], ["yes", "no"], ["true", "false"], ["1", "0"], ["a", "b"])
_LISTS = ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "0123456789")


@dataclass(frozen=True)
class Decided:
    """Answers to typed questions.

    Attributes:
        answers: by the question's name, in System One's shapes.
        diagnostics: by name: `label_mass`, the probability of all labels together among all tokens, and
            whether the likeliest token is a label. Low mass means that the model would rather have said
            something else.
        input_tokens: read for all questions together, memories included.
        items: what was remembered for them.
        seconds: the search included.
    """

    answers: Mapping[str, dict[str, Any]]
    diagnostics: Mapping[str, dict[str, Any]]
    input_tokens: int = 0
    items: tuple[Any, ...] = field(default=())
    seconds: float = 0.0


class Decider:
    """Decides with one backbone.

    Args:
        backbone: any chat model.
        injection: how memories reach it.

    Raises:
        MemoryFolderError: a transformers without decisions.
    """

    def __init__(self, backbone: Backbone, injection: Injection) -> None:
        try:
            from transformers import decision
            from transformers.decision.modeling_utils import process_scores
        except ImportError as error:
            raise MemoryFolderError(
                "typed decisions need transformers 5.23 or newer: pip install -U transformers"
            ) from error
        self._decision: Any = decision
        self._process: Any = process_scores
        self.backbone, self.injection = backbone, injection

    @cached_property
    def _processor(self) -> Any:
        """A copy: transformers adds two marks to the tokenizer that it is given."""
        return copy.deepcopy(self.backbone.processor)

    @property
    def _tokenizer(self) -> Any:
        return getattr(self._processor, "tokenizer", self._processor)

    @cached_property
    def config(self) -> Any:
        """The model's decision config, with labels that its tokenizer has as single tokens."""
        config = self._decision.DecisionConfig.from_pretrained(self.backbone.spec.source)
        labels = dict(config.labels)
        if "noul" not in labels:
            labels["noul"] = next((pair for pair in _NOUL if self._single(pair)), _NOUL[0])
        for kind in ("choice", "score"):
            if kind not in labels:
                found = ([one for one in letters if self._single([one])] for letters in _LISTS)
                labels[kind] = max(found, key=len)
        config.labels = labels
        return config

    def _single(self, labels: Sequence[str]) -> bool:
        try:
            self._decision.label_token_ids(self._tokenizer, tuple(labels))
        except ValueError:
            return False
        return True

    def decide(
        self, state: Any, questions: Mapping[str, Any], assets: Mapping[str, ImageRef] | None = None,
        memory: Tensor | None = None,
    ) -> Decided:  # fmt: skip
        """Answer all questions about a state.

        Args:
            state: text, or any JSON.
            questions: by name, each `{"type": "noul" | "choice" | "score", "instructions", "criteria"}`.
            assets: images by the placeholder that stands for them in the state or the questions.
            memory: `(m, d)`, put before each prompt.

        Raises:
            ValueError: a question that is none, names each; an image that cannot be opened; a prompt longer
                than the model's context.
        """
        start = time.perf_counter()
        images = {name: open_image(image) for name, image in (assets or {}).items()}
        request = {"state": state, "questions": dict(questions), "assets": images}
        prompts = list(self._decision.prepare_inputs(self.config, request, self._processor))
        for given, _ in prompts:
            read = int(given["input_ids"].shape[-1]) + (0 if memory is None else len(memory))
            self.backbone.process.check_length(read)
        answers: dict[str, dict[str, Any]] = {}
        diagnostics: dict[str, dict[str, Any]] = {}
        count = 0
        for given, asked in prompts:
            inputs, marks = {name: value for name, value in given.items() if name != "marks"}, given["marks"]
            count += int(inputs["input_ids"].shape[-1]) + (0 if memory is None else len(memory))
            logits = self._logits(inputs, marks - 1, memory)
            scores = [logits[n, self._labels(question)] for n, question in enumerate(asked)]
            made = self._process(self.config, inputs["input_ids"], marks, asked, scores)
            for n, (question, score) in enumerate(zip(asked, made, strict=True)):
                answers[question.name] = question.answer(score.softmax(-1).tolist())
                ids = self._labels(question)
                mass = float(logits[n].float().softmax(-1)[ids].sum())
                likely = int(logits[n].argmax()) in ids
                diagnostics[question.name] = {"label_mass": mass, "argmax_is_label": likely}
        return Decided(answers, diagnostics, count, seconds=time.perf_counter() - start)

    def _labels(self, question: Any) -> list[int]:
        return list(self._decision.label_token_ids(self._tokenizer, tuple(question.labels)))

    def _logits(self, inputs: Mapping[str, Any], where: Tensor, memory: Tensor | None) -> Tensor:
        """`(marks, v)`, at the positions before the marks."""
        model = self.backbone.model
        placed = self.backbone.place(inputs)
        with torch.no_grad(), adapters_off(model), evaluating(model):
            if memory is None:
                with fresh_positions(model):
                    found = model(**placed, use_cache=False, logits_to_keep=where.to(self.backbone.device))
                    return found.logits[0].cpu()  # type: ignore[no-any-return]
            vectors = memory.to(self.backbone.device, self.backbone.dtype)
            moved = (where + len(memory)).to(self.backbone.device)  # memory stands before the whole prompt
            with self.injection.attach(model, placed, [vectors]) as extended:
                found = model(**extended, use_cache=False, logits_to_keep=moved)
                return found.logits[0].cpu()  # type: ignore[no-any-return]
