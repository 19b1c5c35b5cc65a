"""What a video memory costs at the sizes of published models, weights random: ingestion, first token, memory.

    python benchmarks/video_shapes.py --shape 7b --device cuda     # bf16; a GPU of 40 GB
    python benchmarks/video_shapes.py                              # tiny, on the CPU: a rehearsal

Segments of 32 frames go through vision tower and memory; then the first token of a question is timed
without video, with the memory as the authors read it (the fuser's vectors of the cached states), with 8
vectors a segment (`qformer=8`), and with the 32 frames that are shown beside it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from comem.io.console import print_line
from comem.memory.video.encoder import Headers, VideoReader
from comem.memory.video.eye import onevision
from comem.memory.video.recurrent import EMPTY, VideoMemory
from comem.memory.video.settings import VideoMemorySettings

_SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
    "num_hidden_layers": 26, "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
    "vision_use_head": False,
}  # fmt: skip


def _qwen(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
        "max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip


#: Vision and text sizes by name, those of llava-onevision-qwen2-*-ov.
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tiny": (
        {**_SIGLIP, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4,
         "image_size": 56},
        _qwen(64, 128, 2, 4, 4, 512),
    ),
    "0.5b": (_SIGLIP, _qwen(896, 4864, 24, 14, 2, 151_936)),
    "7b": (_SIGLIP, _qwen(3584, 18_944, 28, 28, 4, 152_128)),
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """A model of random weights, and how it is timed."""

    model: Any
    side: int
    vocab: int

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.model.device  # type: ignore[no-any-return]

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall-clock of a call; on a GPU until it is done."""
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> float:
        """MiB: of the GPU's memory, or of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def first_token(self, block: Tensor | None) -> float:
        """Milliseconds until the first token's logits of a question of 40 tokens, a block in front of it."""
        words = self.model.get_input_embeddings()(torch.arange(40, device=self.device) % self.vocab)
        given = (words if block is None else torch.cat([block, words]))[None]

        def ask() -> object:
            hidden = self.model.base_model.language_model(
                inputs_embeds=given, use_cache=True
            ).last_hidden_state
            return self.model.get_output_embeddings()(hidden[:, -1])

        ask()
        return 1e3 * statistics.median(self.seconds(ask) for _ in range(5))


def bench_of(shape: str, device: str) -> Bench:
    """The model, bf16 on a GPU."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    vision, text = SHAPES[shape]
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_token_index=3, video_token_index=4,
    )  # fmt: skip
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaOnevisionForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    return Bench(model.eval().requires_grad_(False), vision["image_size"], text["vocab_size"])


@torch.inference_mode()
def measure(bench: Bench, segments: int) -> None:
    """Push segments, ask, print."""
    eye = onevision(bench.model, None, 0)
    weight = bench.model.get_input_embeddings().weight
    width, plain = weight.shape[1], VideoMemorySettings()
    made = {
        name: VideoReader(
            bench.model, eye, VideoMemory(settings, width, eye.grid).to(weight), Headers((1,), (2,))
        )
        for name, settings in {"fuser": plain, "8 a segment": VideoMemorySettings(qformer=8)}.items()
    }
    reader = made["fuser"]
    pixels = torch.rand(plain.segment, 3, bench.side, bench.side, device=bench.device, dtype=weight.dtype)
    state, spent, peaks = EMPTY, list[float](), list[float]()
    for number in range(segments):
        index = torch.arange(plain.segment) + number * plain.segment

        def push(index: Tensor = index) -> None:
            nonlocal state
            state = reader.remember(reader.timed(pixels, index)[None], state)

        spent.append(bench.seconds(push))
        peaks.append(bench.peak())
    late = statistics.median(spent[segments // 2 :])
    print_line(f"{plain.segment / late:,.1f} frames a second taken in; {len(state.states)} states are kept")
    print_line(
        f"peak memory after half of {segments} segments {peaks[segments // 2]:,.0f}, "
        f"at the end {peaks[-1]:,.0f} MiB"
    )
    none = bench.first_token(None)
    print_line(f"first token without video {none:,.1f} ms")
    frames = reader.timed(pixels, torch.arange(plain.segment))
    blocks = {name: one.block(one.memory.read(state)[0], None) for name, one in made.items()}
    blocks["32 frames"] = reader.block(None, frames)
    blocks["fuser and 32 frames"] = reader.block(reader.memory.read(state)[0], frames)
    for name, block in blocks.items():
        took = bench.first_token(block)
        print_line(f"  {name}: {len(block):,} tokens, {took:,.1f} ms, {took - none:,.1f} above no video")


def main() -> None:
    """Read the command line, measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--segments", type=int, default=24)
    given = parser.parse_args()
    torch.manual_seed(0)
    print_line(f"shape {given.shape} on {given.device}, random weights, {torch.get_num_threads()} threads")
    if given.device == "cpu":
        print_line("no GPU: this shows that the measurement runs, and nothing about 7B on one")
    measure(bench_of(given.shape, given.device), given.segments)


if __name__ == "__main__":
    main()
