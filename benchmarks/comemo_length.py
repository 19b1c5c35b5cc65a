"""A fact in an image early in a conversation that grows: context path, memory path, both; RoPE-DHR and
plain ids.

    nice -n 10 python -m benchmarks.comemo_length run --out runs/length [--steps 160] [--seeds 0 1]
    python -m benchmarks.comemo_length table runs/length

Each arm trains the whole of a small CoMemo for so many steps on the same conversations of 1 to 4 images, in
the same order (`--images` trains on other numbers; take another folder then). All start from one model: the
embedded decoder, a vision tower and projector that were taught to tell the fields' colours through a head
that is thrown away (so neither path is ahead), and a block before each layer that starts as the layer's own
attention, gates closed. Asked is the colour of the first of 1 to 32 coats of arms, of towns that nobody
trained on. `dhr` and `plain` differ in the ids of images cut into two tiles and a thumbnail. An answer is
right if every token of it is the likeliest after those before it. What was begun goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from comem.backbones.chatml import IGNORED
from comem.backbones.comemo import CoMemo
from comem.backbones.hf import load_backbone
from comem.backbones.media import MediaBlocks, every
from comem.benchmarks.scoring import Bootstrap
from comem.io.console import print_line, print_table
from comem.io.files import read_json, read_jsonl, write_json
from comem.toy import lexicon
from comem.toy.comemo import ComemoSettings as Data
from comem.toy.comemo import build_comemo, conversation
from comem.toy.draw import draw
from comem.toy.world import World
from comem.training.comemo import build_run
from comem.training.data import TrainingExample, parse_example
from comem.training.run import train
from comem.training.settings import ComemoSettings, OptimSettings, TrainSettings

LENGTHS, TRAINED = (1, 2, 4, 8, 16, 32), (1, 2, 3, 4)
PLAIN = 0.05
#: Arm → tiles of an image, settings of CoMemo.
ARMS: dict[str, tuple[int, dict[str, Any]]] = {
    "context": (1, {"image_path": "context"}),
    "memory": (1, {"image_path": "memory"}),
    "both": (1, {"image_path": "both"}),
    "both, 2 tiles, dhr": (2, {"positions": "dhr"}),
    "both, 2 tiles, plain": (2, {"positions": "plain"}),
}


def data_of(out: Path, tiles: int, images: tuple[int, ...] = TRAINED) -> Data:
    """Where the conversations with so many tiles an image lie, and how they were made."""
    return Data(out / f"data{tiles}", 3000, images, 8, wide=tiles, max_tiles=tiles)


def settings_of(out: Path, arm: str, seed: int, steps: int, batch: int) -> TrainSettings:
    """One run, as `comem train` takes it."""
    tiles, own = ARMS[arm]
    folder = data_of(out, tiles).output
    name = arm.replace(", ", "-").replace(" ", "")
    return TrainSettings(
        model=str(folder / "taught"), data=str(folder / "train.jsonl"), output=str(out / f"{name}-{seed}"),
        seed=seed, batch_size=batch, epochs=1000, max_steps=steps, save_every=50, keep_last=1,
        precision="fp32", tensorboard=False,
        comemo=ComemoSettings(stage=3, max_tiles=4 * tiles if tiles > 1 else 1, **own),
        optim=OptimSettings(lr=2e-3, beta2=0.98, weight_decay=0.0, clip=1.0, warmup=0.1),
    )  # fmt: skip


def teach(data: Data, steps: int = 300, batch: int = 64) -> None:
    """Write taught/: the toy's model with a tower that tells colours, and blocks on every layer."""
    torch.manual_seed(0)
    given = load_backbone(data.output / "model", device="cpu", dtype="float32")
    model, colours = given.comemo.model, list(lexicon.COLOURS)
    towns, pixels, fields = World(0, 1500).split("train"), [], []
    for town in towns:
        strip = Image.new("RGB", (data.size * data.wide, data.size), "gray")
        strip.paste(draw(town, 1, data.size), (0, 0))
        found, _ = given.processor.tiles([strip])
        found = found[found.std((2, 3)).amax(1) > PLAIN]  # the strip's plain end shows no field
        pixels.append(found)
        fields += [colours.index(town.arms.field)] * len(found)
    seen, known = torch.cat(pixels), torch.tensor(fields)
    head = nn.Linear(model.get_decoder().config.hidden_size, len(colours))
    learned = [
        p.requires_grad_(True) for n, p in model.named_parameters() if "vision_tower" in n or "projector" in n
    ]
    optimizer = torch.optim.AdamW([*learned, *head.parameters()], lr=2e-3, weight_decay=0.0)
    for step in range(steps):
        some = torch.randint(len(seen), (batch,))
        said = head(given.comemo.image_tokens(seen[some]))  # (batch, tokens, colours)
        loss = F.cross_entropy(said.flatten(0, 1), known[some].repeat_interleave(said.shape[1]))
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 == steps:
            print_line(f"tower, {data.wide} tiles: loss {float(loss.detach()):.3f}")
    sizes = replace(given.comemo.blocks.sizes, layers=every(1, len(model.get_decoder().layers)))
    blocks = MediaBlocks(sizes)
    blocks.start(sizes.width**-0.5)
    blocks.start_as(model)
    made = CoMemo(model.requires_grad_(False), blocks, replace(given.comemo.config, blocks=sizes))
    made.save(data.output / "taught", given.processor)


def asked(out: Path, tiles: int, length: int, count: int) -> list[TrainingExample]:
    """Conversations of so many images about towns of the test split."""
    data, towns = data_of(out, tiles), World(0, 400).split("test")
    rows = [conversation(towns, data, f"l{length}-", n, length) for n in range(count)]
    return [parse_example(row, data.output) for row in rows]


@torch.no_grad()
def right(run: Any, examples: Sequence[TrainingExample], tiles: int) -> str:
    """Per conversation "1" if its last answer is given."""
    # the tiles of an image do not depend on how many there are
    collator = replace(
        run.collator, settings=replace(run.collator.settings, max_tiles=tiles * len(examples[0].images))
    )
    model, marks = run.model.eval(), ""
    for example in examples:
        batch = collator([example])
        hidden, targets, _ = model.answer_states(batch.samples)
        said = model.comemo.model.get_output_embeddings()(hidden).argmax(-1)
        last = _last(batch.samples[0]["labels"][0])
        marks += "01"[bool((said[-last:] == targets[-last:]).all())]
    return marks


def _last(labels: torch.Tensor) -> int:
    """Tokens of the last answer."""
    learned = (labels != IGNORED).tolist()
    return learned[::-1].index(False, learned[::-1].index(True)) - learned[::-1].index(True)


def run(out: Path, steps: int, batch: int, questions: int, args: argparse.Namespace) -> None:
    """All arms; what is in the results is not done again."""
    torch.set_num_threads(1)
    path = out / "results.json"
    results: dict[str, Any] = read_json(path) if path.exists() else {}
    for tiles in sorted({ARMS[arm][0] for arm in args.arms}):
        if not (data_of(out, tiles).output / "model").exists():
            build_comemo(data_of(out, tiles, tuple(args.images)))
        if not (data_of(out, tiles).output / "taught").exists():
            teach(data_of(out, tiles))
    for seed in args.seeds:
        for arm in args.arms:
            if (key := f"{arm}-{seed}") in results:
                continue
            settings, tiles = settings_of(out, arm, seed, steps, batch), ARMS[arm][0]
            done = train(settings)
            losses = [row["loss"] for row in read_jsonl(done.folder / "metrics.jsonl") if "loss" in row]
            made = build_run(
                settings, lambda name: load_backbone(name, device="cpu", dtype="float32"), done.checkpoint
            )
            found = {
                str(n): right(made, asked(out, tiles, n, questions if n < 32 else questions // 2), tiles)  # noqa: PLR2004
                for n in LENGTHS
            }
            results[key] = {
                "arm": arm, "seed": seed, "steps": steps, "right": found, "loss": sum(losses[-20:]) / 20,
                "gates": made.model.comemo.blocks.gates(),
            }  # fmt: skip
            write_json(path, results)
            shares = ", ".join(f"{n} {100 * v.count('1') / len(v):.0f}" for n, v in found.items())
            print_line(f"{key}: loss {results[key]['loss']:.3f}; {shares}")


def table(out: Path) -> None:
    """Percent right by images, with 95 % intervals over conversations; two seeds are averaged."""
    results, draw, rows = read_json(out / "results.json"), Bootstrap(samples=2000), []
    for arm in ARMS:
        runs = [row for row in results.values() if row["arm"] == arm]
        cells = []
        for n in map(str, LENGTHS) if runs else ():
            values = [[int(c) for c in run["right"][n]] for run in runs]
            flat = [sum(v) / len(v) for v in zip(*values, strict=True)]
            low, high = draw.interval(draw.means(flat))
            cells.append(f"{100 * sum(flat) / len(flat):.0f} [{low:.0f}, {high:.0f}]")
        if runs:
            gates = [v for run in runs for name, v in run["gates"].items() if name.startswith("attn")]
            loss = sum(run["loss"] for run in runs) / len(runs)
            rows.append((arm, *cells, f"{len(runs)}", f"{loss:.2f}", f"{sum(gates) / len(gates):.2f}"))
    print_table(("images", *map(str, LENGTHS), "seeds", "loss", "gates"), rows, "percent right")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("run")
    job.add_argument("--out", type=Path, required=True)
    for name, value in (("steps", 160), ("batch", 8), ("questions", 80)):
        job.add_argument(f"--{name}", type=int, default=value)
    job.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    job.add_argument("--images", type=int, nargs="+", default=list(TRAINED), help="of trained conversations")
    job.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    jobs.add_parser("table").add_argument("out", type=Path)
    args = parser.parse_args()
    if args.job == "run":
        run(args.out, args.steps, args.batch, args.questions, args)
    else:
        table(args.out)


if __name__ == "__main__":
    main()
