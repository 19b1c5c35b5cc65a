"""Runs our modules on a golden folder and says how far each output is from the authors' (golden/README.md).

Everything goes the ordinary way: the converter loads the folder, the encoder reads the items, the soft
prefix puts the memory in front of the question. There is no test-only path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from comem.compat.checkpoint import load_authors_checkpoint
from comem.compat.comemo import is_comemo
from comem.compat.difference import Difference, max_abs
from comem.compat.video import is_video
from comem.memory.bank import read_tensors
from comem.memory.injection import PREFIX
from comem.memory.qformer_encoder import QFormerEncoder

TOLERANCE = 1e-5


def run_parity(folder: str | Path) -> list[Difference]:
    """Compare every output that the golden folder stores.

    Raises:
        ValueError: if the folder has no cases, or is not a checkpoint of layout A.
    """
    folder = Path(folder)
    cases = sorted(folder.glob("case_*.safetensors"))
    if not cases:
        raise ValueError(f"{folder}: no case_*.safetensors here: not a golden folder")
    if is_comemo(folder):
        from comem.compat.comemo_parity import run

        return run(folder)
    if is_video(folder):
        from comem.compat import video_parity

        return video_parity.run(folder)
    # The authors' code embeds the question with the encoder's tables and tower.
    encoder_model, qformer, reader = load_authors_checkpoint(folder, "encoder", torch.float32)
    encoder = QFormerEncoder(encoder_model, None, qformer)
    differences = []
    for path in cases:
        golden = read_tensors(path)
        ours = compute_outputs(encoder, reader, golden)
        differences += [
            Difference(path.stem, name, max_abs(ours[name], golden[name])) for name in ours if name in golden
        ]
    return differences


def compute_outputs(
    encoder: QFormerEncoder, reader: nn.Module, case: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """All outputs of one case, by their golden names."""
    knowledge = {k.removeprefix("knowledge_"): v for k, v in case.items() if k.startswith("knowledge_")}
    question = {name: case[name] for name in ("input_ids", "pixel_values", "image_grid_thw")}
    question["attention_mask"] = torch.ones_like(question["input_ids"])

    memory = encoder(knowledge)  # (k, q, d)
    outputs = {"memory_retrieval_order": memory.flatten(0, 1)[None]}
    logits, outputs["position_ids"] = read_question(reader, question, memory)
    own = logits[:, -question["input_ids"].shape[1] :]  # (1, l, v): the question's part
    loss = nn.functional.cross_entropy(own[:, :-1].flatten(0, 1), case["labels"][:, 1:].flatten())
    outputs |= {"train_logits": own, "train_loss": loss}
    first_q: Any = encoder.model.get_submodule("model.language_model.layers.0.self_attn.q_proj").weight
    outputs["grad_latents"], outputs["grad_encoder_q_proj0"] = torch.autograd.grad(
        loss, [encoder.qformer.latents, first_q]
    )
    with torch.no_grad():
        outputs["inference_logits_reversed_order"], _ = read_question(reader, question, memory.flip(0))
    return {name: value.detach() for name, value in outputs.items()}


def read_question(reader: nn.Module, question: Mapping[str, Tensor], memory: Tensor) -> tuple[Tensor, Tensor]:
    """The reader's logits `(1, k·q + l, v)` and the positions `(3, 1, k·q + l)` that it used."""
    with (
        PREFIX.attach(reader, question, [memory.flatten(0, 1)]) as inputs,
        _seen_positions(reader.get_submodule("model.language_model")) as seen,
    ):
        logits = reader(**inputs, use_cache=False).logits
    return logits, seen[0][-3:]


@contextmanager
def _seen_positions(language_model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the position ids with which the language model is called."""
    seen: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["position_ids"])

    handle = language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
