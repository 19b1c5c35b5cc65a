"""Train the embedded backbone from scratch: `python -m comem.toy.pretrain --output DIR`.

A curriculum from bare drills over one town to three in the context (see `STAGES`). Checkpoints hold
model and optimizer as safetensors; run the same command again and it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from comem.toy.backbone import build_config, build_processor, initialise
from comem.toy.episodes import Episode, PicturePool, Recipe, make_episode
from comem.toy.lexicon import FACTS
from comem.toy.tokenizer import build_tokenizer
from comem.toy.vision import learn_to_see
from comem.toy.world import World

logger = logging.getLogger(__name__)
IGNORE = -100


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: until which step, and groups of recipes; a step takes one of each group."""

    until: int
    groups: tuple[tuple[Recipe, ...], ...]


RECALL = Recipe(items=5, questions=14, drill="recall", describe=0.0, hard=0.2, batch=4)
CLOZE = Recipe(items=3, questions=14, drill="cloze", hard=0.2, batch=5)
TERSE = Recipe(items=3, questions=12, terse=True, describe=0.05, batch=5)
FULL = Recipe(items=3, questions=12, describe=0.05, batch=5)
ONE = (replace(TERSE, items=1), replace(TERSE, items=1, before_system=True))
STAGES = (
    Stage(60, ((RECALL,), (replace(CLOZE, items=1),))),
    Stage(300, ((RECALL,), (CLOZE,))),
    Stage(500, ((CLOZE,), ONE)),
    Stage(1000, ((CLOZE,), (TERSE, replace(TERSE, before_system=True), replace(TERSE, items=2)))),
    Stage(
        10**9,
        (
            (replace(CLOZE, batch=3), TERSE, replace(TERSE, before_system=True)),
            (FULL, replace(FULL, before_system=True), replace(FULL, items=1, before_system=True)),
        ),
    ),
)


def collate(episodes: list[Episode], tokenizer: Any, pool: PicturePool) -> dict[str, Any]:
    """Token ids `(b, l)`, M-RoPE positions `(3, b, l)`, labels and pixels; padded on the right.

    Every picture is 2 × 2 tokens, so positions need no search (a test compares with the model's own).
    """
    texts = [episode.text for episode in episodes]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    length = max(len(ids) for ids in encoded["input_ids"])
    pad, image = tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ids = np.full((len(texts), length), pad, dtype=np.int64)
    labels = np.full((len(texts), length), IGNORE, dtype=np.int64)
    kinds = np.full((len(texts), length), -1, dtype=np.int64)
    for row, episode in enumerate(episodes):
        tokens = encoded["input_ids"][row]
        ids[row, : len(tokens)] = tokens
        starts = np.array([start for start, _ in encoded["offset_mapping"][row]])
        for number, (begin, end) in enumerate(episode.spans):
            inside = np.flatnonzero((starts >= begin) & (starts < end))
            labels[row, inside] = ids[row, inside]
            kinds[row, inside] = number
    pixels = pool.pixel_values([picture for episode in episodes for picture in episode.pictures])
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions(ids == image)),
        "labels": torch.from_numpy(labels),
        "spans": torch.from_numpy(kinds),
        "pixel_values": torch.from_numpy(pixels),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * (len(pixels) // 16)),
    }


def positions(is_image: np.ndarray) -> np.ndarray:
    """M-RoPE positions `(3, b, l)` of sequences whose pictures are 2 × 2 tokens."""
    within = (np.cumsum(is_image, axis=1) - 1) % 4  # 0..3 inside a picture
    last = is_image & (within == 3)
    step = np.where(is_image, 2 * last, 1)
    base = np.cumsum(step, axis=1) - step
    row, column = np.where(is_image, within // 2, 0), np.where(is_image, within % 2, 0)
    return np.stack([base, base + row, base + column]).astype(np.int64)


def loss_and_hits(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted cross-entropy over the answers; per answer token whether it is right; its (row, span)."""
    pictures = {k: batch[k] for k in ("pixel_values", "image_grid_thw") if len(batch["pixel_values"])}
    hidden = model.model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, **pictures
    ).last_hidden_state
    rows, columns = torch.nonzero(batch["labels"] != IGNORE, as_tuple=True)
    logits = model.lm_head(hidden[rows, columns - 1]).float()
    targets = batch["labels"][rows, columns]
    where = torch.stack([rows, batch["spans"][rows, columns]])
    _, answer, lengths = torch.unique(where, dim=1, return_inverse=True, return_counts=True)
    weights = lengths[answer].float().rsqrt()  # a long description weighs little more than a short fact
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum(), logits.argmax(-1) == targets, where


def answers_right(hits: torch.Tensor, where: torch.Tensor, episodes: list[Episode]) -> list[tuple[str, bool]]:
    """(kind, whether every token of the answer is right) of each answer."""
    right: dict[tuple[int, int], bool] = {}
    for hit, row, span in zip(hits.tolist(), *where.tolist(), strict=True):
        right[row, span] = right.get((row, span), True) and hit
    return [(episodes[row].kinds[span], ok) for (row, span), ok in right.items()]


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on."""

    steps: int = 3000
    vision_steps: int = 600
    lr: float = 2e-3
    muon_lr: float = 3e-3
    vision_scale: float = 0.1
    warmup: int = 40
    weight_decay: float = 0.02
    hidden: int = 128
    layers: int = 5
    entities: int = 4500
    views: int = 8
    seed: int = 0


class Pretraining:
    """One run: model, data, optimizer, and where it stands."""

    def __init__(self, settings: Settings, output: Path) -> None:
        self.settings, self.output, self.step = settings, output, 0
        torch.manual_seed(settings.seed)
        from transformers import AutoModelForImageTextToText

        self.tokenizer = build_tokenizer()
        self.processor = build_processor(self.tokenizer)
        self.model = AutoModelForImageTextToText.from_config(
            build_config(self.tokenizer, settings.hidden, settings.layers)
        )
        world = World(settings.seed, settings.entities)
        logger.info("drawing %d pictures", len(world.split("train")) * settings.views)
        self.pool = PicturePool(world.split("train"), settings.views, self.processor, output / "pictures.npy")
        self.val_pool = PicturePool(world.split("val")[:200], 4, self.processor)
        self.optimizers = self._optimizers()

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices, AdamW for the rest; the vision tower, which can see by now, goes slower."""
        s, parts = self.settings, defaultdict[str, list[torch.nn.Parameter]](list)
        for name, parameter in self.model.named_parameters():
            matrix = parameter.ndim == 2 and "embed" not in name
            parts[("seeing" if "visual" in name else "reading") + (" matrix" if matrix else "")].append(
                parameter
            )
        words: list[dict[str, Any]] = [
            {"params": parts["reading"]},
            {"params": parts["seeing"], "lr": s.lr * s.vision_scale / 3},
        ]
        matrices: list[dict[str, Any]] = [
            {"params": parts["reading matrix"]},
            {"params": parts["seeing matrix"], "lr": s.muon_lr * s.vision_scale},
        ]
        decay, rule = s.weight_decay, "match_rms_adamw"
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(words, lr=s.lr, betas=(0.9, 0.98), weight_decay=decay),
            torch.optim.Muon(matrices, lr=s.muon_lr, weight_decay=decay, adjust_lr_fn=rule),
        ]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["start"] = group["lr"]
        return optimizers

    def start(self) -> None:
        """Teach the vision tower (once: the result is kept), then lay out the reading circuit."""
        visual, seen = self.model.model.visual, self.output / "vision.safetensors"
        if seen.exists():
            visual.load_state_dict(load_file(seen))
        else:
            width = self.model.config.text_config.hidden_size
            learn_to_see(visual, width, self.pool, self.settings.vision_steps, self.settings.seed)
            save_file({k: v.contiguous() for k, v in visual.state_dict().items()}, seen)
        some = range(min(64, len(self.pool.entities) * self.pool.views))
        pixels = torch.from_numpy(self.pool.pixel_values(some))
        initialise(self.model, pixels, torch.Generator().manual_seed(self.settings.seed))

    def learn(self) -> dict[str, list[bool]]:
        """One step; returns, by kind of question, which answers were right before it."""
        rng = random.Random(f"{self.settings.seed}/{self.step}")
        stage = next(stage for stage in STAGES if self.step < stage.until)
        self._set_lr()
        self.model.train()
        self.loss, right = 0.0, defaultdict[str, list[bool]](list)
        for group in stage.groups:
            recipe = rng.choice(group)
            episodes = [make_episode(self.pool, recipe, rng) for _ in range(recipe.batch)]
            loss, hits, where = loss_and_hits(self.model, collate(episodes, self.tokenizer, self.pool))
            (loss / len(stage.groups)).backward()
            self.loss += loss.item() / len(stage.groups)
            for kind, ok in answers_right(hits, where, episodes):
                right[f"{recipe.items}{'t' * recipe.terse} {'facts' if kind in FACTS else kind}"].append(ok)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return right

    def _set_lr(self) -> None:
        s, share = self.settings, self.step / self.settings.steps
        scale = min(1.0, (self.step + 1) / s.warmup) * (0.5 + 0.5 * math.cos(math.pi * min(share, 1.0)))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["start"] * max(scale, 0.02)

    @torch.no_grad()
    def evaluate(self, episodes_each: int = 24) -> dict[str, float]:
        """Share of right answers on validation towns, per number of items, one question after another."""
        self.model.eval()
        result: dict[str, float] = {}
        for name, recipe in (
            ("1", Recipe(1, 8)),
            ("2", Recipe(2, 8)),
            ("3", Recipe(3, 8)),
            ("3 docs", Recipe(3, 8, before_system=True)),
        ):
            rng = random.Random("evaluate")
            episodes = [
                make_episode(self.val_pool, replace(recipe, hard=0.5, describe=0.15), rng)
                for _ in range(episodes_each)
            ]
            _, hits, where = loss_and_hits(self.model, collate(episodes, self.tokenizer, self.val_pool))
            answers = answers_right(hits, where, episodes)
            facts = [ok for kind, ok in answers if kind in FACTS]
            result[name] = sum(facts) / len(facts)
            for kind in ("describe", "name"):
                own = [ok for k, ok in answers if k == kind]
                result[f"{name} {kind}"] = sum(own) / max(1, len(own))
        return result

    def save(self) -> None:
        """Replace the checkpoint by one file that is either whole or absent."""
        tensors = {
            f"model.{k}": v.contiguous() for k, v in self.model.state_dict().items() if k != "lm_head.weight"
        }
        for i, optimizer in enumerate(self.optimizers):
            for j, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{k}": torch.as_tensor(v) for k, v in state.items()}
        self.output.mkdir(parents=True, exist_ok=True)
        part = self.output / "checkpoint.part"
        save_file(
            tensors, part, metadata={"step": str(self.step), "settings": json.dumps(asdict(self.settings))}
        )
        os.replace(part, self.output / "checkpoint.safetensors")

    def resume(self, path: Path) -> None:
        """Take up model, optimizer and step from a checkpoint."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            self.step = int(file.metadata()["step"])
        tensors = load_file(path)
        own = {k[len("model.") :]: v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(own, strict=False)
        for i, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{i}."):
                    _, _, j, name = key.split(".", 3)
                    state.setdefault(int(j), {})[name] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})

    def export(self, folder: Path) -> None:
        """The model folder that `AutoProcessor` and `AutoModelForImageTextToText` load."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def main() -> None:
    """Train, evaluate now and then, save every few minutes, export at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    for name, value in asdict(Settings()).items():
        kind = (lambda text: text.lower() == "true") if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    parser.add_argument("--evaluate-every", type=int, default=200)
    args = vars(parser.parse_args())
    output, every = args.pop("output"), args.pop("evaluate_every")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run = Pretraining(Settings(**args), output)
    if (output / "checkpoint.safetensors").exists():
        run.resume(output / "checkpoint.safetensors")
        logger.info("resumed at step %d", run.step)
    else:
        run.start()
    train(run, every)
    run.export(output / "model")


def train(run: Pretraining, every: int) -> None:
    """The loop, with one line of log.jsonl each 20 steps."""
    run.output.mkdir(parents=True, exist_ok=True)
    tally: dict[str, list[bool]] = defaultdict(list)
    start, first = time.time(), run.step
    while run.step < run.settings.steps:
        for kind, right in run.learn().items():
            tally[kind] += right
        if run.step % 20 == 0:
            line: dict[str, Any] = {
                "step": run.step,
                "loss": round(run.loss, 4),
                "seconds": round((time.time() - start) / (run.step - first), 3),
            }
            line |= {k: round(sum(v) / len(v), 3) for k, v in sorted(tally.items())}
            tally.clear()
            if run.step // every > (run.step - 20) // every:
                line["val"] = {k: round(v, 3) for k, v in run.evaluate().items()}
                run.save()
            with (run.output / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            logger.info(json.dumps(line))
    run.save()


if __name__ == "__main__":
    main()
