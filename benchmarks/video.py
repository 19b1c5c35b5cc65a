"""What a video memory costs: frames a second taken in, first token after k segments, memory over hours.

python benchmarks/video.py MODEL MEMORY [--hours 3]

On the embedded size (tools/video_world.py); one frame a second, 24 x 24 pixels, one thread.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import load_backbone
from comem.memory.encoder import load_encoder
from comem.memory.injection.infix import infix_for
from comem.memory.video.stream import VideoStream
from comem.toy.videos import make_clip
from comem.types import Message, VideoRef


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("memory")
    parser.add_argument("--hours", type=float, default=3.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(given.model, device="cpu")
    encoder = load_encoder(given.memory, backbone)
    stream, injection = VideoStream(encoder), infix_for(backbone)
    film = make_clip(np.random.default_rng(0), 240).frames
    dummy = VideoRef(frames=film[:1])
    chat, one = [[Message("user", (dummy, "\nWhich color is the disc?"))]], GenerationConfig(max_new_tokens=1)
    plain = [[Message("user", ("Which color is the disc?",))]]
    total, spent = int(given.hours * 3600), 0.0
    marks = {240, 2400, total - total % 240}
    for done in range(240, total + 1, 240):
        began = time.process_time()
        stream.push(film)
        spent += time.process_time() - began
        if done in marks:
            asked = [
                seconds(lambda: backbone.generate(chat, [stream.block("memory")], one, injection))
                for _ in range(9)
            ]
            without = [seconds(lambda: backbone.generate(plain, None, one)) for _ in range(9)]
            first, none = (1e3 * float(np.median(times)) for times in (asked, without))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{done:6d} frames: {done / spent:.0f} frames a CPU second, peak {peak:.0f} MiB", flush=True
            )
            states = len(stream.state.memory.states)
            print(f"  first token {first:.1f} ms, no video {none:.1f} ms, {states} states", flush=True)


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
