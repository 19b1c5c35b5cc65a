"""Train the embedded video model: a tiny LLaVA-OneVision and its memory, then measure what the memory does.

    python tools/video_world.py train runs/video-world/seed0 --seed 0
    python tools/video_world.py measure runs/video-world/seed0
    python tools/video_world.py table runs/video-world/seed0 runs/video-world/seed1
    python tools/video_world.py train runs/video-towns/seed0 --world towns

Order matters (video_memory.md 8): the eye first, taught each asked frame's shape and colour; then the
reader on frames of short clips; then memory and reader together, the eye frozen. In the world of towns the
eye is the toy's vision tower as it is, and the reader the toy's language model; frames show coats of arms,
and the colour of a charge is asked for. What is measured and how stands in docs/video.md.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comem.backbones.hf import HFBackbone, load_backbone
from comem.backbones.specs import BACKBONES, TOY_FOLDER
from comem.memory.encoder import load_encoder
from comem.memory.injection.infix import infix_for
from comem.memory.video.encoder import VideoMemoryEncoder, build_encoder
from comem.memory.video.eye import look
from comem.memory.video.recurrent import EMPTY, MemoryState
from comem.memory.video.sampling import shown_frames
from comem.memory.video.settings import VideoMemorySettings
from comem.toy.draw import draw as draw_arms
from comem.toy.lexicon import CHARGES
from comem.toy.videos import COLOURS, SHAPES, SIDE, Clip, make_clip, question
from comem.toy.world import World
from comem.training.model import answer_loss
from comem.types import Message, VideoRef

COLOUR_NAMES = list(COLOURS)


def tiny_model(seed: int) -> HFBackbone:
    """An untrained LLaVA-OneVision of 64 dimensions over the toy's tokenizer."""
    from transformers import (
        AutoTokenizer,
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(
        TOY_FOLDER, extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    )
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": SIDE, "width": SIDE}}
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for part in m['content'] %}"
        "{{ part['text'] if part['type'] == 'text' else '<|image_pad|>' }}{% endfor %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(image_grid_pinpoints=[[SIDE, SIDE]], **half), tokenizer,
        LlavaOnevisionVideoProcessor(do_sample_frames=False, **half), num_image_tokens=16,
        vision_feature_select_strategy="full", chat_template=template,
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": SIDE, "patch_size": 6,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": len(tokenizer) + 1,
            "max_position_embeddings": 32768, "bos_token_id": None,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},  # as Qwen2's; for long prompts
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        image_grid_pinpoints=[[SIDE, SIDE]], vision_feature_layer=-1, vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlavaOnevisionForConditionalGeneration(config)
    return HFBackbone(BACKBONES["llava_onevision"], model, processor)


def memory_settings(**changes: Any) -> VideoMemorySettings:
    """Four slots of four patches, segments of eight frames: 16 vectors a segment, as four frames have."""
    sizes = {"slots": 4, "heads": 4, "segment": 8, "kept": 8, "fill": "tail", "memory_header": "memory:",
             "frames_header": "frames:", "side": 2}  # fmt: skip
    return VideoMemorySettings(**{**sizes, **changes})


def eye_stage(encoder: VideoMemoryEncoder, rng: np.random.Generator, steps: int) -> float:
    """Tower and projector learn to name a frame's shape and its colour; returns the last accuracy."""
    model = encoder.model
    tower = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    for parameter in tower:
        parameter.requires_grad_(True)
    heads = nn.ModuleList([nn.Linear(64, len(SHAPES) + 1), nn.Linear(64, len(COLOUR_NAMES))])
    optimizer = torch.optim.AdamW([*tower, *heads.parameters()], lr=2e-3, weight_decay=0.01)
    right = 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 40) * (1 - step / steps) ** 0.5
        frames, shape, colour = one_frames(rng, 128)
        features = encoder.eye.features(encoder.eye.pixels(torch.as_tensor(frames)))  # (f, p, d)
        said = heads[0](features).transpose(1, 2), heads[1](features).transpose(1, 2)  # by every patch
        shape, colour = (each[:, None].expand(-1, features.shape[1]) for each in (shape, colour))
        loss = F.cross_entropy(said[0], shape) + F.cross_entropy(said[1], colour, ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen = shape < len(SHAPES)
        hit = (said[0].argmax(1) == shape) & (~seen | (said[1].argmax(1) == colour))
        right = 0.95 * right + 0.05 * float(hit.float().mean())
        if step % 50 == 49:
            print(f"  eye {step + 1} loss {float(loss):.3f} right {right:.3f}", flush=True)
    for parameter in tower:
        parameter.requires_grad_(False)
    with torch.no_grad():  # small beside words no more, and large beside the temporal code: a deviation of 3
        last, size = model.model.multi_modal_projector.linear_2, features.std() / 3
        last.weight /= size
        last.bias /= size
    return right


def one_frames(rng: np.random.Generator, count: int) -> tuple[Any, Tensor, Tensor]:
    """Single frames, four in five with a shape."""
    clip = [make_clip(rng, 5) for _ in range(count // 5 + 1)]
    frames, shape, colour = [], [], []
    for each in clip:
        by_frame = {at: (name, tint) for name, (tint, at) in each.facts.items()}
        for at, frame in enumerate(each.frames):
            name, tint = by_frame.get(at, ("", ""))
            frames.append(frame)
            shape.append(SHAPES.index(name) if name else len(SHAPES))
            colour.append(COLOUR_NAMES.index(tint) if name else -1)
    return np.stack(frames[:count]), torch.tensor(shape[:count]), torch.tensor(colour[:count])


def asked(backbone: HFBackbone, names: list[str], answers: list[str]) -> dict[str, Tensor]:
    """Questions with answers, labels on the answer's tokens."""
    from comem.backbones.chatml import answer_labels

    dummy = VideoRef(frames=np.zeros((1, 2, 2, 3), dtype=np.uint8))
    chats = [
        [Message("user", (dummy, "\n" + question(name))), Message("assistant", (answer,))]
        for name, answer in zip(names, answers, strict=True)
    ]
    inputs = backbone.process(chats, add_generation_prompt=False)
    inputs["labels"] = answer_labels(inputs["input_ids"], backbone.process.tokenizer)
    return inputs


class Shapes:
    """Frames of noise; each of four shapes is seen once (comem.toy.videos)."""

    subjects: tuple[str, ...] = SHAPES

    def reader(self, seed: int) -> HFBackbone:
        """The untrained model."""
        return tiny_model(seed)

    def prepare(self, encoder: VideoMemoryEncoder, rng: np.random.Generator, short: float) -> None:
        """Teach the eye, unless it has been."""
        if short:
            eye_stage(encoder, rng, int(500 * short))

    def clip(self, rng: np.random.Generator, length: int) -> Clip:
        """A clip of so many frames."""
        return make_clip(rng, length)

    @torch.no_grad()
    def seen(self, encoder: VideoMemoryEncoder, clips: list[Clip], first: int = 0) -> Tensor:
        """Features of clips of one length with temporal code `(b, f, p, d)`; their first frame's number."""
        frames = torch.as_tensor(np.stack([clip.frames for clip in clips]))
        count, length = frames.shape[:2]
        pixels = encoder.eye.pixels(frames.flatten(0, 1))
        index = torch.arange(first, first + length).repeat(count)
        return encoder.timed(pixels, index).unflatten(0, (count, length))


class Towns(Shapes):
    """Coats of arms; each of four charges is seen in one frame, among frames of noise.

    The pictures of a pool are seen once, since the eye is not trained; a clip's frames are numbers in it.
    """

    subjects = tuple(CHARGES[:4])

    def __init__(self, test: bool = False, count: int = 1600) -> None:
        towns = World(0, 4 * count).split("test" if test else "train")[:count]
        self.towns = towns
        by_charge = {
            charge: [i for i, t in enumerate(towns) if t.arms.charge == charge] for charge in CHARGES
        }
        self.shown = {charge: by_charge[charge] for charge in self.subjects}
        self.others = range(len(towns), len(towns) + 64)  # noise

    def reader(self, seed: int) -> HFBackbone:
        """The toy's, whose language model is trained on; patches large beside the temporal code, as above."""
        torch.manual_seed(seed)
        backbone = load_backbone("toy", device="cpu")
        with torch.no_grad():
            last = backbone.model.model.visual.merger.mlp[-1]
            last.weight *= 6  # from a deviation of 0.5
            last.bias *= 6
        return backbone

    @torch.no_grad()
    def prepare(self, encoder: VideoMemoryEncoder, rng: np.random.Generator, short: float) -> None:
        """Look at the pool."""
        arms = [np.asarray(draw_arms(town, 1)) for town in self.towns]
        noise = [rng.integers(70, 150) + rng.normal(0, 12, arms[0].shape) for _ in self.others]
        frames = torch.as_tensor(np.stack([*arms, *(one.astype(np.uint8) for one in noise)]))
        self.pool = look(encoder.eye, encoder.eye.pixels(frames))

    def clip(self, rng: np.random.Generator, length: int) -> Clip:
        """A clip of so many frames, numbers in the pool."""
        frames, facts = rng.choice(self.others, length), {}
        for charge, at in zip(self.subjects, rng.choice(length, 4, replace=False).tolist(), strict=True):
            frames[at] = rng.choice(self.shown[charge])
            facts[charge] = (self.towns[frames[at]].arms.charge_colour, int(at))
        return Clip(frames, facts)

    @torch.no_grad()
    def seen(self, encoder: VideoMemoryEncoder, clips: list[Clip], first: int = 0) -> Tensor:
        """As of `Shapes`."""
        features = self.pool[torch.as_tensor(np.stack([clip.frames for clip in clips]))]
        return encoder.memory.timed(features, torch.arange(first, first + features.shape[1]))


def draw(
    world: Shapes, rng: np.random.Generator, length: int, count: int
) -> tuple[list[Clip], list[str], list[str]]:
    """Clips, and of each in turn all subjects and their colours."""
    clips = [world.clip(rng, length) for _ in range(count)]
    answers = [clip.facts[name][0] for clip in clips for name in world.subjects]
    return clips, list(world.subjects) * count, answers


@dataclass(frozen=True)
class Stage:
    """Training of reader and memory: each step draws a length and what is read; four questions a clip."""

    name: str
    steps: int
    lengths: list[int]
    reads: dict[str, float]
    lr: float
    clips: int = 16


def stage(
    world: Shapes, backbone: HFBackbone, encoder: VideoMemoryEncoder, rng: np.random.Generator, plan: Stage
) -> None:
    """Train the reader and the memory as planned; the eye stays as it is."""
    name, steps, lengths, reads, lr, count = (getattr(plan, each) for each in plan.__dataclass_fields__)
    model, injection = backbone.model, infix_for(backbone)
    eye = ("vision_tower", "projector", "visual")
    trained = [p for n, p in model.named_parameters() if not any(part in n for part in eye)]
    memory = list(encoder.memory.parameters())
    for parameter in (*trained, *memory):
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW([*trained, *memory], lr=lr, weight_decay=0.01)
    began, mean = time.time(), 3.0
    encoder.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * (0.05 + 0.95 * (1 - step / steps))
        length = lengths[int(rng.integers(len(lengths)))]
        read = str(rng.choice(list(reads), p=list(reads.values())))
        clips, names, answers = draw(world, rng, length, count)
        seen = world.seen(encoder, clips, int(rng.integers(0, 1024)) if rng.random() < 0.5 else 0)
        rows = shown_frames(length, int(rng.choice([8, 16, 32])) if read == "frames" else 8)
        state = EMPTY if read == "frames" else encoder.remember(seen)
        each = [
            encoder.block_from(state.row(i) if state.states else EMPTY, seen[i, rows], read)  # type: ignore[arg-type]
            for i in range(count)
        ]
        blocks = [block for block in each for _ in world.subjects]
        loss, _ = answer_loss(encoder.prepared, asked(backbone, names, answers), blocks, injection)
        loss = loss / len(names)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*trained, *memory], 1.0)
        optimizer.step()
        mean = 0.97 * mean + 0.03 * float(loss)
        if step % 50 == 49:
            print(f"  {name} {step + 1} loss {mean:.3f} {time.time() - began:.0f} s", flush=True)
    encoder.eval()
    encoder.requires_grad_(False)


@torch.no_grad()
def accuracy(
    backbone: HFBackbone,
    encoder: VideoMemoryEncoder,
    blocks: list[Tensor],
    names: list[str],
    answers: list[str],
) -> list[bool]:
    """Whether each answer is right, generated by the ordinary way."""
    from comem.backbones.base import GenerationConfig

    dummy = VideoRef(frames=np.zeros((1, 2, 2, 3), dtype=np.uint8))
    chats = [[Message("user", (dummy, "\n" + question(name)))] for name in names]
    said = backbone.generate(chats, blocks, GenerationConfig(max_new_tokens=4), infix_for(backbone))
    return [one.text.strip() == answer for one, answer in zip(said, answers, strict=True)]


#: By world: name, steps, frames of a clip, what is read and how often, learning rate, clips a step.
STAGES: dict[str, list[Stage]] = {
    "shapes": [
        Stage("reader", 350, [8], {"frames": 1.0}, 3e-3),
        Stage("one segment", 400, [8], {"memory": 0.9, "frames": 0.1}, 2e-3),
        Stage("segments", 900, [8, 16, 32], {"memory": 0.7, "both": 0.15, "frames": 0.15}, 2e-3),
        Stage("slower", 700, [8, 16, 32], {"memory": 0.8, "both": 0.15, "frames": 0.05}, 1e-3),
    ],
    "towns": [
        Stage("reader", 250, [4, 8], {"frames": 1.0}, 2e-3, 8),
        Stage("one segment", 350, [4, 8], {"memory": 0.9, "frames": 0.1}, 2e-3, 8),
        Stage("segments", 250, [8, 16, 32], {"memory": 0.7, "both": 0.15, "frames": 0.15}, 1e-3, 8),
        Stage("slower", 250, [8, 16, 32], {"memory": 0.8, "both": 0.15, "frames": 0.05}, 1e-3, 8),
    ],
}


def train(folder: Path, name: str, seed: int, short: float) -> None:
    """All stages, and the folders `model` and `memory`; interrupted, it goes on with the cut stage."""
    began, done = time.time(), [plan.name for plan in STAGES[name] if (folder / plan.name).is_file()]
    world = Towns() if name == "towns" else Shapes()
    backbone = load_backbone(folder / "model", device="cpu") if done else world.reader(seed)
    backbone.model.requires_grad_(False)
    encoder = build_encoder(backbone, video=memory_settings(cache=0))
    if done:
        encoder.load_weights(folder / "memory")
    else:
        with torch.no_grad():  # weights of 0.02 are for a width of 896: as strong here
            for module in encoder.memory.modules():
                if isinstance(module, nn.Linear):
                    module.weight *= (896 / encoder.width) ** 0.5
    world.prepare(encoder, np.random.default_rng(seed), 0.0 if done else short)
    for number, plan in enumerate(STAGES[name]):
        if plan.name in done:
            continue
        rng = np.random.default_rng([seed, number])
        stage(world, backbone, encoder, rng, replace(plan, steps=max(1, int(plan.steps * short))))
        for length in (8, 32):
            clips, names, answers = draw(world, np.random.default_rng(99), length, 16)
            seen = world.seen(encoder, clips)
            for read in ("frames", "memory", "both"):
                blocks = [encoder.block_of(one, read) for one in seen for _ in world.subjects]  # type: ignore[arg-type]
                right = accuracy(backbone, encoder, blocks, names, answers)
                print(f"  after {plan.name}: {length} frames, {read}: {np.mean(right):.3f}", flush=True)
        save(backbone, encoder, folder)
        (folder / plan.name).touch()
    spent = time.process_time()
    print(f"trained in {time.time() - began:.0f} s, {spent:.0f} s of processor time", flush=True)


#: What the reader is given, by name: its part of the memory's settings.
ARMS: dict[str, dict[str, Any]] = {
    "memory": {}, "memory, all states": {"cache": 0}, "memory, merged": {"evict": "merge"},
    "memory, one state": {"cache": 1}, "memory, states shuffled": {}, "memory, zeroed": {},
    "memory of another clip": {}, "memory and 8 frames": {}, "8 frames": {}, "frames, equal tokens": {},
}  # fmt: skip


@torch.no_grad()
def block_for(encoder: VideoMemoryEncoder, arm: str, seen: Tensor, other: Tensor) -> Tensor:
    """What the reader is given of a clip `(f, p, d)` in an arm; `other` is another clip, as long."""
    settings = encoder.settings
    encoder.memory.settings = replace(settings, **ARMS[arm])
    try:
        if arm == "memory and 8 frames":
            return encoder.block_of(seen, "both")
        if "frames" in arm:
            states = min(settings.cache, -(-len(seen) // settings.segment))
            count = 8 if arm == "8 frames" else states * encoder.memory.vectors // encoder.memory.patches
            return encoder.block_from(EMPTY, seen[shown_frames(len(seen), count)], "frames")
        state = encoder.remember((other if "another" in arm else seen)[None])
        if "shuffled" in arm:
            order = torch.randperm(len(state.states), generator=torch.Generator().manual_seed(0)).tolist()
            state = MemoryState(tuple(state.states[i] for i in order), state.counts, state.segments)
        vectors = encoder.memory.read(state)[0]
        return encoder.block(torch.zeros_like(vectors) if "zeroed" in arm else vectors, None)
    finally:
        encoder.memory.settings = settings


def measure(folder: Path, name: str, clips: int, lengths: list[int]) -> None:
    """Accuracy of every arm at every length, the same clips for all; a row a cell in results.jsonl."""
    backbone = load_backbone(folder / "model", device="cpu")
    encoder = load_encoder(folder / "memory", backbone)
    if not isinstance(encoder, VideoMemoryEncoder):
        raise ValueError(f"{folder / 'memory'}: holds no video memory")
    world = Towns(test=True) if name == "towns" else Shapes()
    if name == "towns":
        world.prepare(encoder, np.random.default_rng(0), 1.0)
    out = folder / "results.jsonl"
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    done = {(row["arm"], row["frames"]) for row in rows}
    for length in lengths:
        rng = np.random.default_rng(10_000 + length)
        films = [world.clip(rng, length) for _ in range(clips if length <= 256 else max(12, clips // 3))]
        seen = [world.seen(encoder, [clip])[0] for clip in films]
        places = [clip.facts[each][1] / max(1, length - 1) for clip in films for each in world.subjects]
        for arm in ARMS:
            if (arm, length) in done:
                continue
            right: list[bool] = []
            for at in range(0, len(films), 8):
                some = range(at, min(at + 8, len(films)))
                given = [block_for(encoder, arm, seen[i], seen[i - 1]) for i in some]
                answers = [films[i].facts[each][0] for i in some for each in world.subjects]
                blocks = [block for block in given for _ in world.subjects]
                right += accuracy(backbone, encoder, blocks, list(world.subjects) * len(some), answers)
            scores = np.array(right, dtype=float).reshape(-1, len(world.subjects))
            row = cell(arm, length, scores, np.array(places)) | {"right": "".join(map(str, map(int, right)))}
            row["tokens"] = len(given[-1])
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def cell(arm: str, length: int, right: Any, places: Any) -> dict[str, Any]:
    """Accuracy with its 95 % interval over clips, and by where in the clip the fact was shown."""
    draws = np.random.default_rng(0).integers(0, len(right), (2000, len(right)))
    means = right[draws].mean(axis=(1, 2))
    flat, parts = right.ravel(), {}
    for name, (first, last) in {"first": (0, 0.1), "middle": (0.4, 0.6), "last": (0.9, 1.01)}.items():
        inside = (places >= first) & (places < last)
        parts[name] = round(float(flat[inside].mean()), 3) if inside.any() else None
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "arm": arm, "frames": length, "questions": int(right.size), "accuracy": round(float(right.mean()), 4),
        "low": round(float(low), 3), "high": round(float(high), 3), "by_place": parts,
    }  # fmt: skip


def table(folders: list[Path]) -> str:
    """Markdown of several seeds' results: accuracy over all of them, and its 95 % interval over clips."""
    rows = [json.loads(line) for folder in folders for line in (folder / "results.jsonl").open()]
    lengths = sorted({row["frames"] for row in rows})
    lines = [f"| given to the reader | {' | '.join(map(str, lengths))} |", "|---|" + "---:|" * len(lengths)]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        found = []
        for length in lengths:
            same = [row["right"] for row in rows if (row["arm"], row["frames"]) == (arm, length)]
            right = np.array([int(one) for text in same for one in text], dtype=float).reshape(-1, 4)
            one = cell(arm, length, right, np.zeros(right.size))
            found.append(f"{100 * one['accuracy']:.1f} ({100 * one['low']:.0f} to {100 * one['high']:.0f})")
        lines.append(f"| {arm} | {' | '.join(found)} |")
    return "\n".join(lines)


def save(backbone: HFBackbone, encoder: VideoMemoryEncoder, folder: Path) -> None:
    """The folders `model` and `memory`: what `comem predict` opens."""
    backbone.model.save_pretrained(folder / "model")
    backbone.processor.save_pretrained(folder / "model")
    reader = load_backbone(folder / "model", device="cpu")
    saved = build_encoder(reader, video=memory_settings(cache=10))
    saved.memory.load_state_dict(encoder.memory.state_dict())
    saved.save(folder / "memory")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=["train", "measure", "table"])
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--world", choices=list(STAGES), default="shapes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", type=float, default=1.0)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512, 1024])
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.job == "train":
        train(given.folder[0], given.world, given.seed, given.short)
    elif given.job == "measure":
        measure(given.folder[0], given.world, given.clips, given.lengths)
    else:
        print(table(given.folder))
