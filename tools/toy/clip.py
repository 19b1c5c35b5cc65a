"""The embedded CLIP: a small open_clip model trained from scratch on images made by rules.

`python -m tools.toy.clip train` writes an ordinary open_clip folder. Two images of one thing attract
each other and repel all others of the batch (instance discrimination, arXiv:2002.05709); captions are
learned beside it (arXiv:2103.00020). No real image is used.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from comem.io.files import write_json
from comem.retrieval.embedder import TOY_CLIP
from tools.toy.clip_model import build_model, build_tokenizer, save_model, to_pixels
from tools.toy.clip_pairs import Pair, pair_source

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipTraining:
    """Settings of the training; the defaults made the committed weights."""

    seconds: float = 780.0
    max_steps: int = 2000
    batch: int = 192
    siblings: int = 4
    towns: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 40
    temperature: float = 0.06
    text_weight: float = 0.2
    seed: int = 0


def train(folder: Path, settings: ClipTraining) -> list[dict[str, float]]:
    """Trains and saves the model; stops at `max_steps` or after `seconds` of processor time.

    The learning rate follows the share of whichever is nearer its end, so that a slower machine ends
    with the same schedule after fewer steps.

    Returns:
        The log: one record every 20 steps.
    """
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(folder, settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = build_model(settings.seed).train()
    model.visual.to(memory_format=torch.channels_last)
    groups = _parameter_groups(model, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
    sample = pair_source(settings)
    log, start, step, share = list[dict[str, float]](), time.process_time(), 0, 0.0
    while share < 1.0:
        rate = min(1.0, (step + 1) / settings.warmup) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        losses = _step(model, tokenizer, sample(settings.batch), settings)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        seconds = time.process_time() - start
        share = max(step / settings.max_steps, seconds / settings.seconds)
        if step % 20 == 0 or share >= 1.0:
            log.append(
                {"step": step, "seconds": round(seconds, 1)}
                | {k: round(float(v.detach()), 4) for k, v in losses.items()}
            )
            logger.info("%s", log[-1])
    save_model(model.eval(), folder)
    write_json(folder / "training_log.json", {"settings": asdict(settings), "log": log})
    return log


def _step(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], settings: ClipTraining
) -> dict[str, torch.Tensor]:
    """Losses of one batch of b pairs."""
    images = [pair.first for pair in pairs] + [pair.second for pair in pairs]
    with torch.autocast("cpu", torch.bfloat16):  # with channels last, a third of the time
        vectors = model.encode_image(
            to_pixels(images).contiguous(memory_format=torch.channels_last)
        )  # (2b, d)
    first, second = F.normalize(vectors.float(), dim=-1).chunk(2)  # (b, d) each
    captions = [pair.caption for pair in pairs]
    ids = tokenizer(
        captions, padding="max_length", truncation=True, max_length=48, return_tensors="pt"
    ).input_ids
    texts = model.encode_text(ids, normalize=True)  # (b, d)
    same = torch.tensor([[a == b for b in captions] for a in captions])
    twins = same & ~torch.eye(len(pairs), dtype=torch.bool)  # equal captions say nothing about each other
    image_loss = _contrast(first @ second.T / settings.temperature, twins)
    text_loss = _contrast(second @ texts.T * model.logit_scale.exp().clamp(max=100), twins)
    hits = ((first @ second.T).argmax(dim=1) == torch.arange(len(pairs))).float().mean()
    return {
        "loss": image_loss + settings.text_weight * text_loss,
        "image_loss": image_loss.detach(), "text_loss": text_loss.detach(), "recall@1 in batch": hits,
    }  # fmt: skip


def _contrast(logits: torch.Tensor, ignore: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the diagonal, both ways; logits (b, b), ignore (b, b) marks pairs left out."""
    logits = logits.masked_fill(ignore, float("-inf"))
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    free = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: train, write the untrained model, or measure and write the model card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=("train", "init", "card"))
    parser.add_argument("--output", type=Path, default=TOY_CLIP, help="the model folder (%(default)s)")
    parser.add_argument("--seconds", type=float, default=ClipTraining.seconds, help="processor time to spend")
    parser.add_argument("--max-steps", type=int, default=ClipTraining.max_steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", type=Path, help="card: a folder of real flags to measure on")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.job == "init":
        build_tokenizer(args.output, args.seed)
        save_model(build_model(args.seed).eval(), args.output)
    elif args.job == "train":
        train(args.output, ClipTraining(seconds=args.seconds, max_steps=args.max_steps, seed=args.seed))
    else:
        from tools.toy.clip_card import write_card

        write_card(args.output, args.flags)


if __name__ == "__main__":
    main()
