"""What a video memory costs: frames a second taken in, first token after k segments, memory over hours.

    python benchmarks/video.py MODEL MEMORY [--hours 3]
    PYTHONPATH=. python benchmarks/video.py MODEL MEMORY --against     # uniform frames instead of the memory

On the embedded size (tools/video_world.py); one frame a second, 24 x 24 pixels, one thread; times are the
process's own. With --against the same questions are answered from the memory, from uniform frames at the same
number of tokens, and from as many uniform frames as it takes to be as often right (doubled until then).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone, load_backbone
from comem.io.console import print_line, print_table
from comem.memory.encoder import load_encoder
from comem.memory.injection.infix import infix_for
from comem.memory.video.recurrent import EMPTY
from comem.memory.video.sampling import shown_frames
from comem.memory.video.stream import VideoStream
from comem.toy.videos import SHAPES, Clip, make_clip, question
from comem.types import Message, VideoRef

ONE = GenerationConfig(max_new_tokens=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("memory")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--against", action="store_true")
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--clips", type=int, default=24)
    given = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(given.model, device="cpu")
    encoder = load_encoder(given.memory, backbone)
    if given.against:
        against(backbone, encoder, given.frames, given.clips)
    else:
        hours(backbone, encoder, given.hours)


def hours(backbone: HFBackbone, encoder: Any, count: float) -> None:
    """A stream of so many hours."""
    stream, injection = VideoStream(encoder), infix_for(backbone)
    film = make_clip(np.random.default_rng(0), 240).frames
    chat = [asked("disc")]
    plain = [[Message("user", (question("disc"),))]]
    total, spent = int(count * 3600), 0.0
    marks = {240, 2400, total - total % 240}
    for done in range(240, total + 1, 240):
        began = time.process_time()
        stream.push(film)
        spent += time.process_time() - began
        if done in marks:
            first = first_token(lambda: backbone.generate(chat, [stream.block("memory")], ONE, injection))
            none = first_token(lambda: backbone.generate(plain, None, ONE))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print_line(f"{done:6d} frames: {done / spent:.0f} frames a CPU second, peak {peak:.0f} MiB")
            states = len(stream.state.memory.states)
            print_line(f"  first token {first:.1f} ms, no video {none:.1f} ms, {states} states")


def against(backbone: HFBackbone, encoder: Any, lengths: list[int], clips: int) -> None:
    """The memory beside uniform frames, at equal tokens and at the accuracy of its better variant."""
    rows, bounded, memory = [], replace(encoder.settings, evict="merge"), encoder.memory
    everything = replace(bounded, cache=0)
    for length in lengths:
        rng = np.random.default_rng(20_000 + length)
        films = [make_clip(rng, length) for _ in range(clips)]
        memory.settings = bounded
        merged = way(backbone, encoder, films, 0)
        rows.append([str(length), f"memory, {bounded.cache} states, merged", *cells(merged)])
        memory.settings = everything
        mine = way(backbone, encoder, films, 0)
        rows.append([str(length), "memory, all states", *cells(mine)])
        states = -(-length // everything.segment)
        count, best = states * memory.vectors // memory.patches, max(mine[0], merged[0])
        equal = way(backbone, encoder, films, count)
        rows.append([str(length), f"{min(count, length)} frames, equal tokens", *cells(equal)])
        reached = equal[0]
        while reached < best and count < length:
            count *= 2
            found = way(backbone, encoder, films, count)
            reached = found[0]
            name = "as often right" if reached >= best else "less often right"
            rows.append([str(length), f"{min(count, length)} frames, {name}", *cells(found)])
    headings = ["frames", "read", "right", "tokens", "seen a second", "remembered, s", "first token, ms"]
    print_table(headings, rows, texts={"read"})


Found = tuple[float, int, float, float, float]


def cells(found: Found) -> list[str]:
    """As words of the table."""
    right, tokens, rate, seconds, first = found
    return [f"{100 * right:.1f} %", str(tokens), f"{rate:,.0f}", f"{seconds:.3f}", f"{first:.1f}"]


@torch.no_grad()
def way(backbone: HFBackbone, encoder: Any, films: list[Clip], count: int) -> Found:
    """Share of right answers, tokens, frames seen a second, seconds from frames to block, first token.

    Args:
        backbone: answers.
        encoder: remembers.
        films: of one length.
        count: so many uniform frames; 0 for the memory.
    """
    injection, right, spent, rows = (
        infix_for(backbone),
        0,
        0.0,
        shown_frames(len(films[0].frames), count or 8),
    )
    block = torch.empty(0)
    for film in films:
        began = time.process_time()
        if count:
            seen = timed(encoder, film.frames[rows.numpy()], rows)
            block = encoder.block_from(EMPTY, seen, "frames")
        else:
            block = encoder.block_of(timed(encoder, film.frames, torch.arange(len(film.frames))), "memory")
        spent += time.process_time() - began
        said = backbone.generate(
            [asked(name) for name in SHAPES], [block] * 4, GenerationConfig(max_new_tokens=4), injection
        )
        right += sum(one.text.strip() == film.facts[name][0] for one, name in zip(said, SHAPES, strict=True))
    first = first_token(lambda: backbone.generate([asked("disc")], [block], ONE, injection))
    seen_frames = len(rows) if count else len(films[0].frames)
    each = spent / len(films)
    return right / (4 * len(films)), len(block), seen_frames / each, each, first


def timed(encoder: Any, frames: Any, index: Tensor) -> Tensor:
    """Features of frames with their temporal code."""
    return encoder.timed(encoder.eye.pixels(torch.as_tensor(frames)), index)  # type: ignore[no-any-return]


def asked(shape: str) -> list[Message]:
    """The question of a shape's colour, a video in front of it."""
    dummy = VideoRef(frames=np.zeros((1, 2, 2, 3), dtype=np.uint8))
    return [Message("user", (dummy, "\n" + question(shape)))]


def first_token(work: Callable[[], object]) -> float:
    """Milliseconds of the process, the median of nine."""
    times = []
    for _ in range(9):
        began = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - began))
    return float(np.median(times))


if __name__ == "__main__":
    main()
