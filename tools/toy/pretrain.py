"""Train the embedded backbone from scratch: `python -m tools.toy.pretrain --output DIR`.

Or teach a finished one to read items in fewer than eight embeddings: `--init toy --slots 2 2 4 4 8`.

A curriculum from bare drills over one town to three in the context (see `STAGES`). Checkpoints hold
model and optimizer as safetensors; run the same command again and it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from comem.toy.lexicon import FACTS
from comem.toy.world import World
from tools.toy.backbone import build_config, build_processor, initialise
from tools.toy.batches import answers_right, collate, loss_and_hits
from tools.toy.curriculum import Stage, fewer_slots, stage_at
from tools.toy.episodes import Episode, Recipe, make_episode
from tools.toy.images import ImagePool
from tools.toy.pretrain_settings import Settings, make_optimizers, set_rates
from tools.toy.soft_items import SLOT, SLOTS, disturb, embed, in_slots
from tools.toy.tokenizer import build_tokenizer
from tools.toy.vision import learn_to_see

logger = logging.getLogger(__name__)


class Pretraining:
    """One run: model, data, optimizer, and where it stands."""

    def __init__(self, settings: Settings, output: Path) -> None:
        self.settings, self.output, self.step = settings, output, 0
        self.curriculum: Callable[[int], Stage] = stage_at
        torch.manual_seed(settings.seed)
        from transformers import AutoModelForImageTextToText

        self.tokenizer = build_tokenizer()
        self.processor = build_processor(self.tokenizer)
        self.slot = self.tokenizer.convert_tokens_to_ids(SLOT)
        self.model = AutoModelForImageTextToText.from_config(
            build_config(self.tokenizer, settings.hidden, settings.layers)
        )
        world = World(settings.seed, settings.entities)
        logger.info("drawing %d images", len(world.split("train")) * settings.views)
        self.pool = ImagePool(world.split("train"), settings.views, self.processor, output / "images.npy")
        self.val_pool = ImagePool(world.split("val")[:200], 4, self.processor)
        self.optimizers = make_optimizers(self.model, settings)

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

    def go_on(self, backbone: str, slots: Sequence[int]) -> None:
        """Take a finished backbone's weights and teach it items in so many embeddings.

        Raises:
            ValueError: there is no such backbone, or it has other sizes than the settings.
        """
        from comem.backbones.hf import load_backbone

        try:
            finished = load_backbone(backbone, dtype="float32", device="cpu").model
            self.model.load_state_dict(finished.state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{reason} give a backbone of the embedded kind, and its --hidden") from error
        self.model.requires_grad_(True)
        self.curriculum = partial(fewer_slots, steps=self.settings.steps, slots=slots)

    def learn(self) -> dict[str, list[bool]]:
        """One step; returns, by kind of question, which answers were right before it."""
        rng = random.Random(f"{self.settings.seed}/{self.step}")
        torch.manual_seed(rng.getrandbits(62))
        stage = self.curriculum(self.step)
        set_rates(self.optimizers, self.settings, self.step)
        self.model.train()
        self.loss, right = 0.0, defaultdict[str, list[bool]](list)
        for group in stage.groups:
            recipe = rng.choice(group)
            episodes = [make_episode(self.pool, recipe, rng) for _ in range(recipe.batch)]
            loss, hits, where = self._answer(episodes, self.pool, recipe.disturbance)
            (loss / len(stage.groups)).backward()
            self.loss += loss.item() / len(stage.groups)
            for kind, ok in answers_right(hits, where, episodes):
                name = recipe.drill if recipe.drill == "prefix" else f"{recipe.items}{'t' * recipe.terse}"
                right[f"{name} {'facts' if kind in FACTS else kind}"].append(ok)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return right

    def _answer(self, episodes: list[Episode], pool: ImagePool, disturbance: float) -> Any:
        """`loss_and_hits` of the episodes, with their soft items, if any, in place."""
        items = [item for episode in episodes for item in episode.soft_items]
        soft = None
        if items:
            size = self.model.get_input_embeddings().weight.detach().norm(dim=-1).mean()
            soft = disturb(embed(self.model, items, pool), size, disturbance)
        with in_slots(self.model, soft, self.slot):
            return loss_and_hits(self.model, collate(episodes, self.tokenizer, pool))

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
            ("prefix", Recipe(3, 8, drill="prefix")),
            ("prefix of 4", Recipe(3, 8, drill="prefix", slots=4)),
            ("prefix of 2", Recipe(3, 8, drill="prefix", slots=2)),
        ):
            rng = random.Random("evaluate")
            episodes = [
                make_episode(self.val_pool, replace(recipe, hard=0.5, describe=0.15), rng)
                for _ in range(episodes_each)
            ]
            _, hits, where = self._answer(episodes, self.val_pool, 0.0)
            answers = answers_right(hits, where, episodes)
            facts = [ok for kind, ok in answers if kind in FACTS]
            result[name] = sum(facts) / len(facts)
            for kind in ("describe", "name"):
                own = [ok for k, ok in answers if k == kind]
                if own:
                    result[f"{name} {kind}"] = sum(own) / len(own)
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
    parser.add_argument("--init", default="", help="a finished backbone to go on from (toy, or a folder)")
    parser.add_argument(
        "--slots",
        type=int,
        nargs="+",
        default=[SLOTS],
        choices=(1, 2, 4, 8),
        help="with --init: embeddings an item",
    )
    args = vars(parser.parse_args())
    output, every, init, slots = (args.pop(name) for name in ("output", "evaluate_every", "init", "slots"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not init and slots != [SLOTS]:
        parser.error("--slots is for a finished backbone: give --init too")
    run = Pretraining(Settings(**args), output)
    if init:
        try:
            run.go_on(init, slots)
        except ValueError as error:
            parser.error(f"--init {init}: {error}")
    if (output / "checkpoint.safetensors").exists():
        run.resume(output / "checkpoint.safetensors")
        logger.info("resumed at step %d", run.step)
    elif not init:
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
