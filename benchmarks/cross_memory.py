"""Retrieved items as soft prefix, as media of cross-attention, or as both; and plain RAG, on the embedded
world.

    nice -n 10 python -m benchmarks.cross_memory run --out runs/cross [--steps 300] [--seeds 0 1]
    python -m benchmarks.cross_memory table runs/cross

The reader and the shipped memory's encoder are frozen: every arm reads the same embeddings of the same items.
`prefix` is the shipped memory as it is (it was trained for this reader, which was itself taught to read
prefixes). `prefix_mlp`, `cross`, `cross_random` and `both` train about as many parameters of their own, on
the same questions in the same order, for so many steps; `cross` and `both` start as the reader's own
attention (cross.start=reader), `cross_random` at random. Towns of the questions are unseen. An answer is
right if every token of it is the likeliest after those before it. Peak memory is what the tensors of a
prompt and nine tokens take at most, above the weights. What was begun goes on: each arm keeps a checkpoint
every 50 steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from comem.backbones.base import item_turns
from comem.backbones.hf import load_backbone
from comem.backbones.media import MediaBlocks
from comem.benchmarks.scoring import Bootstrap
from comem.io.console import print_line, print_table
from comem.io.files import read_json, write_json
from comem.memory.encoder import load_encoder
from comem.memory.injection.cross import Cross, block_sizes
from comem.memory.injection.prefix import prefix_for
from comem.memory.lora import adapters_off
from comem.memory.settings import CrossSettings
from comem.toy import lexicon
from comem.toy.draw import image_of
from comem.toy.world import Entity, World, random_facts
from comem.training.collator import answer_labels
from comem.training.data import TrainingExample
from comem.training.model import answer_logits, answer_loss
from comem.types import KnowledgeItem

TRAINED = ("prefix_mlp", "cross", "both", "cross_random")
BATCH, POOL, TRAINED_AT, KEPT = 16, 800, (1, 3, 10), (1, 3, 10, 50)
#: The wide MLP leaves what was learned at the blocks' rate: its loss rose from 0.1 to 0.3.
RATES = {"prefix_mlp": 2e-4}
SIZES = CrossSettings(every=1, intermediate=128)


class Pool:
    """Towns with facts drawn anew, their items, and the memories of these."""

    def __init__(self, towns: Sequence[Entity], seed: str) -> None:
        rng = random.Random(seed)
        self.towns = [
            dataclasses.replace(t, facts=random_facts(rng), seed=rng.getrandbits(30)) for t in towns
        ]
        self.items = [
            KnowledgeItem(f"{seed}/{n}", f"{t.name}: {t.passage('en')}", image_of(t, 0))
            for n, t in enumerate(self.towns)
        ]
        self.memory = torch.empty(0)

    def encode(self, encoder: Any, path: Path) -> None:
        """Memories `(n, q, d)`, from the file if it is there."""
        if not path.exists():
            save_file({"memory": encoder.encode(self.items, batch_size=32).embeddings.float()}, path)
        self.memory = load_file(path)["memory"]

    def question(self, rng: random.Random) -> tuple[int, TrainingExample]:
        """A question about one of the towns: which, and the dialogue."""
        at = rng.randrange(len(self.towns))
        town, fact = self.towns[at], rng.choice(list(lexicon.FACTS))
        said = rng.choice(lexicon.QUESTIONS["en"][fact]), town.value(fact, "en")
        return at, TrainingExample(f"{at}/{fact}", (said,), ((image_of(town, rng.randrange(1, 4)),),))

    def beside(self, at: int, k: int, rng: random.Random) -> list[int]:
        """The town's item among k, in random order."""
        others = rng.sample([n for n in range(len(self.towns)) if n != at], k - 1)
        found = [at, *others]
        rng.shuffle(found)
        return found


class Arm(nn.Module):
    """One way to read memories, with what it trains.

    Args:
        name: prefix, or one of `TRAINED`.
        backbone: the frozen reader.
    """

    def __init__(self, name: str, backbone: Any) -> None:
        super().__init__()
        sizes, width = block_sizes(backbone.model, SIZES), backbone.hidden_size
        blocks = MediaBlocks(sizes)
        self.name, self.blocks, self.mlp = name, None, None
        if name in ("cross", "both", "cross_random"):
            blocks.start(width**-0.5)
            if name != "cross_random":
                blocks.start_as(backbone.model)
            self.blocks = blocks
        if name == "prefix_mlp":  # as many parameters as the blocks
            inner = sum(p.numel() for p in blocks.parameters()) // (2 * width)
            self.mlp = nn.Sequential(nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, width))
            nn.init.zeros_(self.mlp[2].weight)
            nn.init.zeros_(self.mlp[2].bias)
        prefix = prefix_for(backbone)
        self.injection: Any = prefix
        if self.blocks is not None:
            self.injection = Cross(self.blocks, "none", prefix if name == "both" else None)

    def seen(self, memory: Tensor) -> Tensor:
        """Memories as the reader gets them."""
        return memory if self.mlp is None else memory + self.mlp(F.layer_norm(memory, memory.shape[-1:]))


def inputs_of(backbone: Any, examples: Sequence[TrainingExample], items: Any = None) -> dict[str, Tensor]:
    """The reader's inputs with labels; behind items' turns, as plain RAG has them."""
    turns = [item_turns(backbone.spec.rag, own) for own in items] if items else [[]] * len(examples)
    chats = [[*before, *example.messages()] for before, example in zip(turns, examples, strict=True)]
    inputs = dict(backbone.process(chats, add_generation_prompt=False))
    labels = answer_labels(inputs["input_ids"], backbone.process.tokenizer)
    if items:  # an item's turn is no answer, but be sure that only the last one counts
        labels[:, : -int((labels != -100).sum(1).max()) - 8] = -100
    return backbone.place({**inputs, "labels": labels})


def train(arm: Arm, backbone: Any, prepared: Any, pool: Pool, steps: int, seed: int, folder: Path) -> float:
    """Train what the arm has; the mean loss of the last 50 steps."""
    gates = arm.blocks.gate_parameters() if arm.blocks is not None else []
    rest = [p for p in arm.parameters() if all(p is not gate for gate in gates)]
    optimizer = torch.optim.AdamW(
        [{"params": rest}, {"params": gates, "lr": 1e-2}],
        lr=RATES.get(arm.name, 2e-3),
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    path, done, losses = folder / "checkpoint.safetensors", 0, []
    if path.exists():
        saved, note = load_file(path), read_json(folder / "checkpoint.json")
        done, losses = note["step"], note["losses"]
        arm.load_state_dict({k[4:]: v for k, v in saved.items() if k.startswith("arm.")})
        for number, p in enumerate(q for g in optimizer.param_groups for q in g["params"]):
            names = ("step", "exp_avg", "exp_avg_sq")
            optimizer.state[p] = {name: saved[f"opt.{number}.{name}"] for name in names}
    for step in range(done, steps):
        rng = random.Random(f"step/{seed}/{step}")
        asked = [pool.question(rng) for _ in range(BATCH)]
        rows = [pool.beside(at, rng.choice(TRAINED_AT), rng) for at, _ in asked]
        inputs = inputs_of(backbone, [example for _, example in asked])
        memories = [arm.seen(pool.memory[row].flatten(0, 1)) for row in rows]
        with adapters_off(backbone.model):
            loss, count = answer_loss(prepared, inputs, memories, arm.injection)
        (loss / count).backward()
        nn.utils.clip_grad_norm_(list(arm.parameters()), 1.0)
        for group in optimizer.param_groups:
            group.setdefault("peak", group["lr"])
            group["lr"] = group["peak"] * min(1.0, (step + 1) / 50) * min(1.0, (steps - step) / (0.3 * steps))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach() / count))
        if (step + 1) % 50 == 0 or step + 1 == steps:
            tensors = {f"arm.{k}": v for k, v in arm.state_dict().items()}
            for number, p in enumerate(q for g in optimizer.param_groups for q in g["params"]):
                tensors |= {f"opt.{number}.{name}": v for name, v in optimizer.state[p].items()}
            save_file({name: value.contiguous() for name, value in tensors.items()}, path)
            write_json(folder / "checkpoint.json", {"step": step + 1, "losses": losses})
            print_line(f"{folder.name}: step {step + 1}, loss {sum(losses[-50:]) / len(losses[-50:]):.3f}")
    return sum(losses[-50:]) / max(len(losses[-50:]), 1)


@torch.no_grad()
def marks(
    arm: Arm | None, backbone: Any, prepared: Any, pool: Pool, k: int, count: int, control: str = ""
) -> str:
    """Per question "1" if the answer is right; arm None is plain RAG, k 0 no items at all."""
    found, rng = "", random.Random(f"test/{k}")
    asked = [pool.question(rng) for _ in range(count)]
    rows = [pool.beside(at, k, rng) if k else [] for at, _ in asked]
    if control == "wrong":
        rows = [[(n + 7) % len(pool.items) for n in row] for row in rows]
        rows = [
            [n for n in row if n != at] or [(at + 1) % len(pool.items)]
            for row, (at, _) in zip(rows, asked, strict=True)
        ]
    if control == "shuffled":
        rows = [row[::-1] for row in rows]
    size = max(1, min(25, 60 // max(k, 1))) if arm is None else 25
    for start in range(0, count, size):
        some = [example for _, example in asked[start : start + size]]
        own = rows[start : start + size]
        items = [[pool.items[n] for n in row] for row in own] if arm is None and k else None
        inputs = inputs_of(backbone, some, items)
        memories: list[Any] = [None] * len(some)
        if arm is not None and k:
            memories = [arm.seen(pool.memory[row].flatten(0, 1)) for row in own]
            memories = [m * 0 for m in memories] if control == "zeroed" else memories
        with adapters_off(backbone.model):
            how = {} if arm is None else {"injection": arm.injection}
            logits, tokens, row = answer_logits(prepared, inputs, memories, **how)
        last = torch.cat(
            [row[1:] != row[:-1], row.new_ones(1, dtype=torch.bool)]
        )  # nobody decodes the newline
        wrong = set(row[(logits.argmax(-1) != tokens) & ~last].tolist())
        found += "".join("0" if n in wrong else "1" for n in range(len(some)))
    return found


@torch.no_grad()
def cost(arm: Arm | None, backbone: Any, pool: Pool, k: int) -> dict[str, float]:
    """Processor seconds to the first token and of a later one, positions of the prompt, memory in KiB."""
    rng = random.Random("cost")
    at, example = pool.question(rng)
    row = pool.beside(at, k, rng)
    chat = example.messages(last_answer=False)
    if arm is None:
        chat = [*item_turns(backbone.spec.rag, [pool.items[n] for n in row]), *chat]
    inputs = backbone.place(backbone.process([chat]))
    memory = None if arm is None else arm.seen(pool.memory[row].flatten(0, 1))
    times: dict[int, float] = {}
    for tokens in (1, 9):
        best = 1e9
        for _ in range(3):
            with adapters_off(backbone.model), _attached(arm, backbone, inputs, memory) as ready:
                start = time.process_time()
                backbone.model.generate(
                    **ready, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
                )
                best = min(best, time.process_time() - start)
        times[tokens], positions = best, ready["input_ids"].shape[1]
    with (
        adapters_off(backbone.model),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched,
        _attached(arm, backbone, inputs, memory) as ready,
    ):
        backbone.model.generate(**ready, max_new_tokens=9, do_sample=False, pad_token_id=0)
    text = backbone.model.config.get_text_config()
    width = text.hidden_size // text.num_attention_heads
    cache = 2 * 4 * text.num_hidden_layers * text.num_key_value_heads * width * positions
    if arm is not None and arm.blocks is not None:
        sizes = arm.blocks.sizes
        cache += 2 * 4 * len(sizes.layers) * sizes.heads * sizes.head_dim * len(memory)
    later = (times[9] - times[1]) / 8
    return {
        "first": times[1], "token": later, "positions": positions, "cache_kib": cache / 1024,
        "peak_kib": _peak(watched) / 1024,
    }  # fmt: skip


def _peak(watched: Any) -> int:
    """The most bytes that were allocated at a time while a profile was taken."""
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held, default=0)


def _attached(arm: Arm | None, backbone: Any, inputs: Any, memory: Any) -> Any:
    return nullcontext(inputs) if arm is None else arm.injection.attach(backbone.model, inputs, [memory])


def run(out: Path, steps: int, seeds: Sequence[int], questions: int, arms: Sequence[str]) -> None:
    """All arms; what is in the results is not done again."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone("toy")
    encoder = load_encoder("toy", backbone)
    world = World(0, 2000)
    train_pool, test_pool = (
        Pool(world.split("train")[:POOL], "train"),
        Pool(world.split("test")[:200], "test"),
    )
    train_pool.encode(encoder, out / "train.safetensors")
    test_pool.encode(encoder, out / "test.safetensors")
    results_path = out / "results.json"
    results: dict[str, Any] = read_json(results_path) if results_path.exists() else {}
    prepared: Any = encoder.prepared
    first, *others = [[(arm, seed) for arm in TRAINED] for seed in seeds]
    todo = [("none", 0), ("prefix", 0), *first, ("rag", 0), *(arm for each in others for arm in each)]
    for name, seed in todo:
        key = f"{name}-{seed}"
        if key in results or name not in arms:
            continue
        torch.manual_seed(seed)
        arm = None if name in ("none", "rag") else Arm(name, backbone)
        row: dict[str, Any] = {"arm": name, "seed": seed, "steps": 0, "parameters": 0}
        if arm is not None and name in TRAINED:
            folder = out / key
            folder.mkdir(exist_ok=True)
            row |= {"loss": train(arm, backbone, prepared, train_pool, steps, seed, folder), "steps": steps}
            row["parameters"] = sum(p.numel() for p in arm.parameters())
            row["gates"] = arm.blocks.gates() if arm.blocks is not None else {}
        kept = (0,) if name == "none" else KEPT
        how = arm, backbone, prepared, test_pool
        row["right"] = {str(k): marks(*how, k, questions if k < 50 else questions // 4) for k in kept}
        if arm is not None:
            for control in ("zeroed", "wrong", "shuffled"):
                row["right"][f"3/{control}"] = marks(*how, 3, questions, control)
        if seed == seeds[0] and name != "none":
            row["cost"] = {str(k): cost(arm, backbone, test_pool, k) for k in KEPT}
        results[key] = row
        write_json(results_path, results)
        print_line(
            f"{key}: " + ", ".join(f"{k} {100 * v.count('1') / len(v):.0f}" for k, v in row["right"].items())
        )


def table(out: Path) -> None:
    """Percent right with 95 % intervals over questions and seeds, then costs."""
    results, interval = read_json(out / "results.json"), Bootstrap(samples=2000)
    names = list(dict.fromkeys(row["arm"] for row in results.values()))
    columns = [*map(str, KEPT), "3/zeroed", "3/wrong", "3/shuffled"]
    rows = []
    for name in names:
        runs = [row for row in results.values() if row["arm"] == name]
        cells = [name]
        for column in columns if name != "none" else ["0"]:
            values = [[int(c) for c in run["right"][column]] for run in runs if column in run["right"]]
            flat = [sum(v) / len(v) for v in zip(*values, strict=True)] if values else []
            low, high = interval.interval(interval.means(flat)) if flat else (0.0, 0.0)
            cells.append(f"{100 * sum(flat) / len(flat):.0f} [{low:.0f}, {high:.0f}]" if flat else "")
        rows.append((*cells, *[""] * (1 + len(columns) - len(cells)), f"{runs[0]['parameters']:,}"))
    print_table(("", *columns, "trained"), rows, "percent right")
    costs = [
        (row["arm"], k, f"{1e3 * c['first']:.0f}", f"{1 / max(c['token'], 1e-9):.0f}", f"{c['positions']}",
         f"{c['cache_kib']:.0f}", f"{c['peak_kib']:.0f}")
        for row in results.values() for k, c in row.get("cost", {}).items()
    ]  # fmt: skip
    print_table(
        ("", "k", "first token, ms", "tokens/s", "positions", "cache, KiB", "peak, KiB"), costs, "cost"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("run")
    job.add_argument("--out", type=Path, required=True)
    job.add_argument("--steps", type=int, default=300)
    job.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    job.add_argument("--questions", type=int, default=200)
    arms = ("none", "rag", "prefix", *TRAINED)
    job.add_argument("--arms", nargs="+", choices=arms, default=arms)
    jobs.add_parser("table").add_argument("out", type=Path)
    args = parser.parse_args()
    if args.job == "run":
        run(args.out, args.steps, args.seeds, args.questions, args.arms)
    else:
        table(args.out)


if __name__ == "__main__":
    main()
