"""The video memory on a golden folder of its authors' modules: how far each of our outputs is from theirs.

Everything goes the ordinary way: frames through the model's processor, the pure step, the infix.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from comem.compat.difference import Difference, max_abs
from comem.compat.video import golden_reader, our_name
from comem.memory.bank import read_tensors
from comem.memory.injection.infix import Infix
from comem.memory.video.encoder import VideoReader
from comem.memory.video.recurrent import EMPTY, MemoryState
from comem.memory.video.sampling import memory_frames, shown_frames

#: Bounds of the golden folder's README: absolute; of gradients relative to the tensor's largest magnitude.
_OUTPUTS, _LOGITS, _GRADIENTS = 1e-5, 2e-5, 1e-4
#: Gradients that are zero but for rounding (evolution, where there is one segment only).
_LEAST = 1e-8
_MARKER = -200
#: Mathematically zero: what is stored is rounding noise.
_NOISE = "k_proj.bias"


def run(folder: Path) -> list[Difference]:
    """Compare every output that the folder stores, each within the bound of its README."""
    reader, found = golden_reader(folder), []
    if (table := folder / "sampling.safetensors").is_file():
        for name, theirs in read_tensors(table).items():
            kind, _, count = name.partition("_")
            frames = memory_frames(int(count))
            ours = frames if kind == "indices" else shown_frames(len(frames))
            found.append(Difference("sampling", name, max_abs(ours, theirs), 0.0))
    for path in sorted(folder.glob("case_*.safetensors")):
        case = read_tensors(path)
        outputs = compute_outputs(reader, case)
        found += [
            Difference(path.stem, name, max_abs(outputs[name], theirs), _allowed(name, theirs))
            for name, theirs in case.items()
            if name in outputs and not name.endswith(_NOISE)
        ]
    return found


def _allowed(name: str, theirs: Tensor) -> float:
    if not theirs.is_floating_point():
        return 0.0
    if name.startswith("grad."):
        return max(_GRADIENTS * float(theirs.abs().max()), _LEAST)
    return _LOGITS if name == "logits" else _OUTPUTS


def compute_outputs(reader: VideoReader, case: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All outputs of one case, by their golden names."""
    frames = case["frames_small"].permute(0, 2, 3, 1)
    frames = frames.repeat_interleave(_cell(reader, case), 1).repeat_interleave(_cell(reader, case), 2)
    count, given = len(frames), case.get("segment_sizes")
    index = memory_frames(count) if given is None else torch.arange(count)
    sizes = None if given is None else given.tolist()
    outputs: dict[str, Tensor] = {"frame_indices": index}
    pixels = reader.eye.pixels(frames[index])
    with_time = reader.timed(pixels, index)
    if "pooled_frames" in case:
        at = case["pooled_frames"]
        outputs["pooled"], outputs["with_time"] = reader.eye.features(pixels[at]), with_time[at]
    learns = any(name.startswith("grad.") for name in case)
    with torch.set_grad_enabled(learns):
        if learns:
            reader.requires_grad_(True)
        states, queries = _states(reader, with_time, sizes)
        patches, width = reader.memory.patches, reader.memory.width
        stacked = torch.cat(states).view(len(states), -1, patches, width)  # (s, k, p, d)
        outputs["states"] = stacked[:, :, case.get("states_patches", torch.arange(0, patches, 7))]
        if "evolved" in case:
            evolved = torch.cat(queries[1:]).view(len(states) - 1, -1, patches, width)
            outputs["evolved"] = evolved[:, :, case["evolved_patches"]]
        last = MemoryState(tuple(states[-reader.settings.cache :]), (), len(states))
        fused = reader.memory.fuse(torch.stack(last.states, dim=1))[0]  # (S, k·p, d)
        grid = fused.reshape(-1, patches, width)
        outputs["fused"] = grid[:, case.get("fused_patches", torch.arange(0, patches, 7))]
        if given is not None:
            weight = (0.7 * torch.arange(grid.numel(), dtype=torch.float64)).sin().float().view(grid.shape)
            outputs["loss"] = (grid * weight).mean()[None]
        elif "input_ids" in case:
            shown = shown_frames(len(index))
            outputs["kept_frames"] = shown
            dropped = "span_frames" not in case
            block = reader.block(reader.memory.read(last)[0], None if dropped else with_time[shown])
            outputs |= _read(reader, case, block, dropped)
        if learns:
            outputs |= _gradients(reader, case, outputs["loss"])
    return {name: value.detach() for name, value in outputs.items()}


def _cell(reader: VideoReader, case: Mapping[str, Tensor]) -> int:
    """Frames are stored small, each cell of them as a square of so many pixels."""
    return int(reader.model.config.vision_config.image_size) // case["frames_small"].shape[-1]


def _states(
    reader: VideoReader, features: Tensor, sizes: list[int] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Every segment's state and the query that it began with, each `(1, k·p, d)`."""
    state, states, queries = EMPTY, [], []
    for segment in features[None].split(sizes or reader.settings.segment, dim=1):  # type: ignore[no-untyped-call]
        queries.append(reader.memory.query(state.states))
        state = reader.memory.step(state, segment)
        states.append(state.states[-1])
    return states, queries


def _read(reader: VideoReader, case: Mapping[str, Tensor], block: Tensor, dropped: bool) -> dict[str, Tensor]:
    """What the language model makes of the sequence: spans, embeddings, logits, loss, greedy ids."""
    model: Any = reader.model
    injection = Infix(marker=_MARKER)
    inputs = {name: case[name] for name in ("input_ids", "labels")}
    seen: list[Tensor] = []
    decoder = model.base_model.language_model
    handle = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        with injection.attach(model, inputs, [block]) as extended:
            labels = extended.pop("labels")
            logits = model(**extended, use_cache=False).logits[0]
    finally:
        handle.remove()
    found = {"embeds": seen[0][0][case["embeds_positions"]], "logits": logits[case["logits_positions"]]}
    found["loss"] = F.cross_entropy(logits[:-1], labels[0, 1:])[None]
    found |= _spans(reader, case, len(block), dropped)
    if "greedy_ids" in case:
        answer = int((case["labels"] != -100).sum())
        question = {"input_ids": case["input_ids"][:, :-answer]}
        count = len(case["greedy_ids"])
        with torch.no_grad(), injection.attach(model, question, [block.detach()]) as extended:
            length = extended["input_ids"].shape[1]
            made = model.generate(
                **extended, do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=0
            )
        found["greedy_ids"] = made[0, length:]
    return found


def _spans(reader: VideoReader, case: Mapping[str, Tensor], size: int, dropped: bool) -> dict[str, Tensor]:
    """Start and end of each part of the sequence."""
    at = int((case["input_ids"][0] == _MARKER).nonzero()[0])
    newline = len(reader.newline)
    head, tail = len(reader.headers.memory), len(reader.headers.frames)
    shown = 0 if dropped else len(shown_frames(len(case["frame_indices"]))) * reader.memory.patches
    memory = size - head - newline - (0 if dropped else tail + shown + newline)
    lengths = {"text_before": at, "memory_header": head, "memory": memory, "memory_newline": newline}
    if not dropped:
        lengths |= {"frame_header": tail, "frames": shown, "frame_newline": newline}
    lengths["text_after"] = case["input_ids"].shape[1] - at - 1
    spans, start = {}, 0
    for name, length in lengths.items():
        spans[f"span_{name}"] = torch.tensor([start, start + length])
        start += length
    return spans


def _gradients(reader: VideoReader, case: Mapping[str, Tensor], loss: Tensor) -> dict[str, Tensor]:
    """Gradients of the loss, under the authors' names."""
    wanted = [name for name in case if name.startswith("grad.")]
    parameters = dict(reader.named_parameters(remove_duplicate=False))
    ours = {}
    for name in wanted:
        mine = our_name(name.removeprefix("grad."))
        ours[name] = parameters[mine if mine.startswith("memory.") else f"model.{mine}"]
    found = torch.autograd.grad(loss[0], list(ours.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(ours.items(), found, strict=True)
    }
