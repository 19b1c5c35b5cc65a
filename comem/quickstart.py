"""`comem quickstart`: the whole method on the embedded world, as a script over the library's functions.

A world of towns is drawn and indexed; items are retrieved for questions about towns that no model has seen; a
memory is trained and merged; every item is encoded into a bank; the questions are answered in three modes.
Then the same on real flags, where a folder of them is given. The embedded models have never seen a flag or a
sentence of ordinary text: retrieval is the part that can work there, and the answers are printed as they are.
With `all_benchmarks` the same world is asked in every benchmark's published format, in every mode.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.scoring import ScoreFiles
from comem.config import load_config, option
from comem.eval.run_folder import CONTEXTS, METRICS, PREDICTIONS, RUN, read_answers
from comem.io.console import Progress, print_line, print_table, quiet
from comem.io.files import RecordError, read_json, read_jsonl, write_atomic, write_json
from comem.io.page import render
from comem.io.run_folder import differences, run_manifest
from comem.recipes import find_recipe
from comem.toy.benchmark_files import FOLDERS, FilesSettings, build_files
from comem.toy.dataset import DataSettings, build, write_lines
from comem.toy.dialogues import DialogueSettings, build_dialogues
from comem.types import Answer, Example, KnowledgeItem

if TYPE_CHECKING:
    from comem.training.settings import TrainSettings

#: Takes one line for the user.
Say = Callable[[str], object]
FLAGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "flags"  # optional, beside a clone
TOY, UNSEEN, ITEMS, HELD_OUT = "toy", "val_unseen_entity", 3, "held_out"
#: How all benchmarks are asked: the backbone answers in words, and was never shown options or instructions.
STYLE = "bare"
TOWNS_TITLE, FLAGS_TITLE = "Towns that no model has seen before", "Real flags, real text"
#: Label, mode, bank.
Line = tuple[str, str, str]
BASELINE, RAG = ("baseline", "baseline", ""), ("rag", "rag", "")
SHIPPED, FRESH = ("comem (shipped)", "comem", "shipped"), ("comem (fresh)", "comem", "fresh")
#: The lines of the tables, by their run folders.
_LINES: dict[str, Line] = {"baseline": BASELINE, "rag": RAG}
TOWN_LINES = _LINES | {"comem_shipped": SHIPPED, "comem_fresh": FRESH}
FLAG_LINES = _LINES | {"comem": SHIPPED}


@dataclass(frozen=True)
class QuickSettings:
    """From an empty folder to the page of results: ten minutes on two cores.

    Everything is written to the run folder. Interrupted? The same command goes on; finished steps are kept.

    Attributes:
        fast: two minutes instead of ten: a small world, a few seconds of training.
        all_benchmarks: every benchmark in every mode, in its own format.
        output: the run folder (default: runs/quickstart[-fast]); the same settings go on in it.
        seed: of the training.
        flags: a folder of real flags in WIT format (default: ../shared/data/flags).
        no_flags: leave the real flags out.

    Raises:
        ValueError: a folder without flags, or both options about them.
    """

    fast: bool = False
    all_benchmarks: bool = False
    output: Path | None = option(None, metavar="DIR")
    seed: int = 0
    flags: Path | None = option(None, metavar="DIR")
    no_flags: bool = False

    def __post_init__(self) -> None:
        if self.flags is not None and self.no_flags:
            raise ValueError("flags and no_flags exclude each other: give one of the two")
        if self.flags is not None and not (self.flags / "questions.jsonl").is_file():
            raise ValueError(f"{self.flags}: no questions.jsonl there; give another folder, or --no-flags")

    @property
    def folder(self) -> Path:
        """Where the run goes; the short one beside the long one, so that neither discards the other."""
        kind = "all-benchmarks" if self.all_benchmarks else "quickstart"
        return self.output or Path("runs") / (f"{kind}-fast" if self.fast else kind)

    @property
    def real_flags(self) -> Path | None:
        """The folder of real flags, or None: not wanted, or not there."""
        return None if self.no_flags else self.flags or (FLAGS if FLAGS.is_dir() else None)

    @property
    def data(self) -> DataSettings:
        """The world's files; two thirds of the test questions are about towns that no training saw."""
        if self.fast:
            return DataSettings(self.folder / "data", size=300, train_questions=600, test_questions=90)
        return DataSettings(self.folder / "data", size=1000, train_questions=3000, test_questions=300)

    @property
    def files(self) -> FilesSettings:
        """Settings of the benchmarks' files, smaller in a fast run."""
        sizes = {} if self.fast else {"size": 240, "questions": 48}
        return FilesSettings(self.folder / "data", **sizes)

    @property
    def dialogues(self) -> DialogueSettings:
        """What the memory is trained on: the same world's training towns, with facts drawn anew each time."""
        count, easy = (600, 600) if self.fast else (6000, 1200)
        return DialogueSettings(
            self.folder / "data", count, easy=easy, entities=self.data.size, languages=("en",), seed=self.seed
        )

    @property
    def held_out(self) -> DialogueSettings | None:
        """What the training is evaluated on: questions about towns that it never sees, three items each."""
        if self.fast:
            return None
        return DialogueSettings(
            self.folder / "data" / HELD_OUT, 48, items=(ITEMS,), turns=1, entities=self.data.size,
            split="val", languages=("en",), seed=self.seed,
        )  # fmt: skip

    @property
    def train_seconds(self) -> float:
        """Seconds of training."""
        return 20.0 if self.fast else 240.0

    def training(self, dialogues: Path, output: Path) -> TrainSettings:
        """The quickstart's recipe, stopped by the clock; the easy dialogues come first."""
        from comem.training.settings import TrainSettings

        own = {"data": str(dialogues), "output": str(output), "seed": self.seed, "shuffle": False}
        own |= {"epochs": 2.0, "max_seconds": self.train_seconds, "max_items": ITEMS}
        if (held := self.held_out) is not None:
            own |= {"eval_data": str(dialogues.parent / HELD_OUT / dialogues.name)}
            own |= {"eval_every": 40, "eval_examples": held.count}
        return load_config(TrainSettings, find_recipe("train/quickstart"), given=own)


#: Title, headings, rows.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Outcome:
    """What a run shows: tables, notes, and files by what they hold."""

    tables: Sequence[Table]
    notes: Sequence[str]
    files: Mapping[str, Path]


def quickstart(settings: QuickSettings, progress: Progress = quiet, say: Say = print_line) -> Outcome:
    """Run what has not been run yet, saying so, and write what came of it.

    Returns:
        What there is to show.

    Raises:
        ValueError: the folder holds something else.
        Interrupted: the training was stopped; the same call goes on.
    """
    start, folder = time.monotonic(), settings.folder
    say(f"quickstart: loading the libraries; all outputs go to {folder}")
    from transformers.utils import logging

    logging.disable_progress_bar()  # "Loading weights", over in a blink each time
    if settings.all_benchmarks:
        steps = all_steps(settings, progress)
    else:
        steps = [*town_steps(settings, progress, say), *flag_steps(settings, progress)]
        if settings.real_flags is None:
            say("quickstart: no folder of real flags (--flags DIR): only the embedded world")
    if shipped_memory() is None:
        say("quickstart: no shipped memory in this package: only the one trained now")
    run_steps(steps, folder, start, say)
    found = all_outcome(folder) if settings.all_benchmarks else outcome(settings)
    say(f"quickstart: done in {time.monotonic() - start:.0f} s")
    return found


def show(found: Outcome, settings: QuickSettings) -> None:
    """Print the tables, the notes, and where the files are."""
    for title, headings, rows in found.tables:
        print_table(headings, rows, title)
    for note in (*found.notes, *(f"{label}: {path}" for label, path in found.files.items())):
        print_line(note)


# --- steps: one whose settings and outputs are as they were is passed over ---

STATE = "steps.json"


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: its key in steps.json.
        title: what it does, for people.
        run: the work; its inputs are the outputs of the steps before it.
        outputs: files and folders that it makes, relative to the run folder.
        settings: what, besides the steps before it, decides the result.
    """

    name: str
    title: str
    run: Callable[[], object]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def run_steps(steps: Sequence[Step], folder: Path, since: float | None = None, say: Say = print_line) -> None:
    """Run what has to be run, in order, saying so.

    A step that was begun with the same settings goes on with what it has: each job resumes by itself. With
    others, the outputs of it and of all steps after it are removed first.

    Args:
        steps: in order.
        folder: the run's; keeps the state.
        since: `time.monotonic()` of the start; the elapsed times count from it.
        say: prints a line.

    Raises:
        ValueError: the folder holds something else than such a run.
    """
    state, start = _state(folder), time.monotonic() if since is None else since
    for number, step in enumerate(steps, start=1):
        known = state.get(step.name, {})
        if "settings" not in known or differences(known["settings"], step.settings):
            for later in steps[number - 1 :]:
                state.pop(later.name, None)
                for path in (folder / name for name in later.outputs):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        kept = step.name in state and known["done"] and all((folder / name).exists() for name in step.outputs)
        heading = f"[{time.monotonic() - start:6.1f} s] {number}/{len(steps)} {step.title}"
        say(f"{heading}: kept from the last run" if kept else heading)
        if kept:
            continue
        begun = time.monotonic()
        state[step.name] = {"settings": dict(step.settings), "done": False}
        write_json(folder / STATE, state)
        step.run()
        state[step.name] |= {"done": True, "seconds": round(time.monotonic() - begun, 2)}
        write_json(folder / STATE, state)


def _state(folder: Path) -> dict[str, Any]:
    """What earlier runs did; an unreadable state counts as none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / STATE).is_file():
        if any(folder.iterdir()):
            raise ValueError(f"{folder} holds something that is no run of this kind; give another --output")
        write_json(folder / STATE, {})
    try:
        state = read_json(folder / STATE)
    except RecordError:
        return {}
    return state if isinstance(state, dict) else {}


# --- the embedded world, and real flags ---


def town_steps(settings: QuickSettings, progress: Progress = quiet, say: Say = print_line) -> list[Step]:
    """World, index, training, merge, banks, answers."""
    folder, shipped = settings.folder, shipped_memory()

    def world() -> None:
        build(settings.data)
        build_dialogues(settings.dialogues)
        if (held := settings.held_out) is not None:
            build_dialogues(held)

    def evaluated(step: int, found: Mapping[str, float]) -> None:
        right, count = found["eval_accuracy"], found["eval_examples"]
        say(f"  after {step} steps: {100 * right:.0f} % of {count:.0f} questions about towns it never saw")

    def training() -> None:
        from comem.training.run import train

        given = settings.training(folder / "data" / "dialogues.jsonl", folder / "train")
        train(given, progress=progress, evaluated=evaluated)

    def merging() -> None:
        from comem.training.merge import merge
        from comem.training.settings import MergeSettings

        shutil.rmtree(folder / "encoder", ignore_errors=True)  # a merge is quick and starts from nothing
        merge(MergeSettings(folder / "train", folder / "encoder"))

    banks = {"fresh": folder / "encoder"} | ({"shipped": shipped} if shipped else {})
    asked = {"benchmark": TOY, "data": folder / "data" / "test.jsonl", "split": UNSEEN}
    return [
        Step("world", "drawing the world: towns, images, passages, questions, dialogues", world, ("data",),
             _sizes(settings.data) | {"dialogues": settings.dialogues.count}),
        Step("index", "indexing the passages by their images (CLIP + FAISS)",
             partial(index, folder / "data" / "wit.tsv.gz", folder / "index", progress), ("index",)),
        Step("train", f"training a memory for {settings.train_seconds:.0f} s (LoRA, Q-Former)", training,
             ("train",), asdict(settings.training(Path("dialogues"), Path("run")))),
        Step("merge", "merging LoRA into a self-contained encoder", merging, ("encoder",)),
        *_asking(folder, "", TOWN_LINES, banks, asked, progress),
    ]  # fmt: skip


def flag_steps(settings: QuickSettings, progress: Progress = quiet) -> list[Step]:
    """Index, recall, bank, answers to questions spread over the file (24 with `fast`); none without flags."""
    source, root, shipped = settings.real_flags, settings.folder / "flags", shipped_memory()
    if source is None:
        return []
    count = 24 if settings.fast else None
    which = {"flags": str(source.resolve()), "questions": count}

    def indexing() -> None:
        from comem.io.images import allow_images

        rows = list(read_jsonl(source / "questions.jsonl"))
        chosen = rows[:: max(1, len(rows) // (count or len(rows)))][:count]
        for row in chosen:
            row["image_path"] = str(source.resolve() / row["image_path"])
        write_lines(root / "questions.jsonl", chosen)
        allow_images(root, (row["image_path"] for row in chosen))
        index(source / "wit_flags.tsv.gz", root / "index", progress)

    def recall() -> None:
        from comem.retrieval.embedder import load_embedder
        from comem.retrieval.evaluate import evaluate_folder, to_json

        report = evaluate_folder(source / "images", load_embedder(TOY), seed=settings.seed)
        write_json(root / "recall.json", to_json(report))

    asked = {"benchmark": "flags", "data": root / "questions.jsonl"}
    outputs = ("flags/index", "flags/questions.jsonl")
    return [
        Step("flags_index", "real flags: indexing all rows", indexing, outputs, which),
        Step("flags_recall", "real flags: finding distorted images again", recall, ("flags/recall.json",)),
        *_asking(root, "flags", FLAG_LINES, {"shipped": shipped} if shipped else {}, asked, progress),
    ]


def _asking(
    root: Path, prefix: str, lines: Mapping[str, Line], encoders: Mapping[str, Path],
    asked: Mapping[str, Any], progress: Progress,
) -> Iterator[Step]:  # fmt: skip
    """The banks, and the answers of every line whose bank there is; items are retrieved once, for RAG."""
    name, place, title = (f"{prefix}_", f"{prefix}/", "real flags: ") if prefix else ("", "", "")

    def path(bank: str) -> Path:
        return root / "banks" / f"{bank}.safetensors"

    def encoding() -> None:
        for bank, encoder in encoders.items():
            encode(encoder, root / "index", path(bank), progress)

    def answering(line: str) -> None:
        _, mode, bank = lines[line]
        known = {"contexts": root / "answers" / "rag" / CONTEXTS, "bank": path(bank)} if bank else {}
        answer(root, (mode,), progress, output=root / "answers" / line, **asked, **known)

    if encoders:
        heading = f"{title}encoding every item once, into memory banks"
        yield Step(f"{name}encode", heading, encoding, (f"{place}banks",), _made_by())
    for line, (label, _, bank) in lines.items():
        if not bank or bank in encoders:
            yield Step(f"{name or 'answer_'}{line}", f"{title}answering: {label}", partial(answering, line),
                       (f"{place}answers/{line}",), {"k": ITEMS})  # fmt: skip


def index(corpus: Path, output: Path, progress: Progress) -> None:
    """Knowledge base and CLIP index of a WIT table."""
    from comem.retrieval.index import build_index
    from comem.retrieval.settings import IndexSettings

    build_index(IndexSettings(corpus=(str(corpus),), output=output, embedder=TOY), progress)


def encode(encoder: Path, index: Path, output: Path, progress: Progress) -> None:
    """A bank of all items of an index."""
    from comem.bank.build import encode
    from comem.bank.settings import EncodeSettings

    encode(EncodeSettings(str(encoder), output, index=index, batch_size=16), progress)


def answer(root: Path, mode: tuple[str, ...], progress: Progress, **asked: Any) -> None:
    """Answer and score, in a few words, with the items nearest to each question's image, in its language."""
    from comem.eval.predict import PredictSettings, predict

    asked |= {"index": root / "index", "k": ITEMS, "languages": ("own",)}
    predict(PredictSettings(mode=mode, max_new_tokens=24, batch_size=16, **asked), progress)


def shipped_memory() -> Path | None:
    """The memory that lies in the package, if there is one."""
    from comem.memory.encoder import toy_memory

    return toy_memory() if (toy_memory() / "comem_encoder.json").is_file() else None


def _sizes(settings: Any) -> dict[str, Any]:
    """Settings without the folder."""
    return {key: value for key, value in asdict(settings).items() if key != "output"}


def _made_by() -> dict[str, Any]:
    memory = shipped_memory()
    return {"shipped": read_json(memory / "comem_encoder.json")["fingerprint"] if memory else None}


# --- what came of it ---


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        label: the mode, and which memory where there are several.
        accuracy: share of right answers, 0 to 1; missing answers count as wrong.
        context_tokens: mean number of positions that knowledge added to a prompt.
        seconds: mean wall-clock seconds per question, encoding excluded where a bank was used.
        count: questions.
        items: knowledge items per question.
    """

    label: str
    accuracy: float
    context_tokens: float
    seconds: float
    count: int
    items: int = 0


class Answered(NamedTuple):
    """What one mode answered, and whether that was right."""

    label: str
    text: str
    right: bool


class Case(NamedTuple):
    """A worked example: the question, what was retrieved, and each mode's answer."""

    example: Example
    items: tuple[KnowledgeItem, ...]
    answers: tuple[Answered, ...]


HEADINGS = ("mode", "accuracy", "context tokens", "per item", "seconds per question")


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, rounded to what its number of questions can tell."""
    per_item = f"{row.context_tokens / row.items:.0f}" if row.items and row.context_tokens else "–"
    tokens = f"{row.context_tokens:.0f}"
    return row.label, f"{100 * row.accuracy:.1f} %", tokens, per_item, f"{row.seconds:.3f}"


def table(title: str, rows: Sequence[Row]) -> Table:
    """The rows as a table for terminal and page."""
    counts = " / ".join(str(count) for count in sorted({row.count for row in rows}))
    return f"{title} ({counts} questions)", HEADINGS, [cells(row) for row in rows]


def row(label: str, answers: Sequence[Answer], values: Sequence[float], items: int = 0) -> Row:
    """The means over the questions of one mode.

    Raises:
        ValueError: no answers, or not one score for each.
    """
    if not answers or len(values) != len(answers):
        raise ValueError(f"{label}: {len(answers)} predictions, {len(values)} scores; give one for each")
    tokens, seconds = fmean(a.context_tokens for a in answers), fmean(a.seconds for a in answers)
    return Row(label, fmean(values), tokens, seconds, len(answers), items)


def rows_of(
    root: Path, lines: Mapping[str, Line], examples: Sequence[Example]
) -> tuple[dict[str, Row], list[Case]]:
    """A row for each line that was answered, and every question with what each mode answered."""
    from comem.retrieval.knowledge import KnowledgeBase

    rows, said = {}, {example.id: list[Answered]() for example in examples}
    known: Mapping[str, Answer] = {}
    for name, (label, mode, _) in lines.items():
        file = root / "answers" / name / PREDICTIONS
        if not file.is_file():
            continue
        found = read_answers(file)
        texts = {example_id: answer.text for example_id, answer in found.items()}
        scores = {each.example_id: each.value for each in
                  BENCHMARKS[TOY].score(texts, examples).scores["accuracy"] if each.answered}  # fmt: skip
        answers = [found.get(example.id, Answer("")) for example in examples]
        values = [scores.get(example.id, 0.0) for example in examples]
        rows[name] = row(label, answers, values, 0 if mode == "baseline" else ITEMS)
        known = found if name == "rag" else known
        for example, each, value in zip(examples, answers, values, strict=True):
            said[example.id].append(Answered(label, each.text, value == 1.0))
    base = KnowledgeBase(root / "index")
    items = {name: tuple(base.by_ids(answer.knowledge_ids)) for name, answer in known.items()}
    return rows, [Case(each, items.get(each.id, ()), tuple(said[each.id])) for each in examples]


def outcome(settings: QuickSettings) -> Outcome:
    """Tables and notes of a finished run; results.json, figure.png and page.html are written."""
    folder, flags = settings.folder, settings.folder / "flags"
    towns = list(BENCHMARKS[TOY].load(folder / "data" / "test.jsonl", split=UNSEEN))
    rows, cases = rows_of(folder, TOWN_LINES, towns)
    shown, notes = {TOWNS_TITLE: list(rows.values())}, [legend(settings), compare(rows)]
    if rows["rag"].accuracy and "comem_shipped" in rows:
        share = 100 * rows["comem_fresh"].accuracy / rows["rag"].accuracy
        notes.append(f"comem (fresh), trained from nothing in this run: {share:.0f} % of RAG's accuracy.")
    if settings.real_flags is not None:
        asked = list(BENCHMARKS["flags"].load(flags / "questions.jsonl"))
        shown[FLAGS_TITLE] = list(rows_of(flags, FLAG_LINES, asked)[0].values())
        notes.append(
            "The embedded models have read neither flags nor ordinary text: the answers about them are poor, "
            "and printed as they are."
        )
    plain = {title: [asdict(each) for each in found] for title, found in shown.items()}
    decided = {"fast": settings.fast, "seed": settings.seed, "items": ITEMS}
    manifest = run_manifest({"settings": decided})
    write_json(folder / "results.json", plain | {"notes": notes, "run": manifest})
    drawn = draw_figure(shown[TOWNS_TITLE], TOWNS_TITLE)
    write_atomic(folder / "figure.png", drawn)
    curve = draw_curve(folder / "train" / "metrics.jsonl", rows)
    if curve:
        write_atomic(folder / "curve.png", curve)
    write_page(
        folder / "page.html", "CoMEM quickstart", notes, shown, drawn, worked_examples(cases, 3), curve
    )
    tables = [table(title, found) for title, found in shown.items()]
    if (flags / "recall.json").is_file():
        recall = read_json(flags / "recall.json")["recall"]
        names = list(next(iter(recall.values())))
        again = [(kind, *(f"{values[name]:.3f}" for name in names)) for kind, values in recall.items()]
        tables.append(("Real flags: found again by their images", ("distortion", *names), again))
    files = {"figure": "figure.png", "worked examples": "page.html", "numbers": "results.json"}
    where = {label: folder / name for label, name in files.items()}
    return Outcome(tables, notes, where | {"run folder": folder.resolve()})


def legend(settings: QuickSettings) -> str:
    """What the labels mean."""
    return (
        f"baseline: the question alone. rag: {ITEMS} retrieved items in the prompt. comem: the same "
        "items as 8 memory embeddings each; (shipped): with the memory in this package, trained ahead; "
        f"(fresh): with the one trained in this run, for {settings.train_seconds:.0f} seconds."
    )


def compare(rows: Mapping[str, Row]) -> str:
    """CoMEM beside RAG in one sentence, with the better trained memory that there is."""
    memory, rag = rows.get("comem_shipped") or rows["comem_fresh"], rows["rag"]
    share = f"{100 * memory.accuracy / rag.accuracy:.0f} %" if rag.accuracy else "–"
    fewer = rag.context_tokens / memory.context_tokens if memory.context_tokens else float("nan")
    return (
        f"{memory.label}: {share} of RAG's accuracy with {fewer:.1f} times fewer context tokens; "
        f"without knowledge {100 * rows['baseline'].accuracy:.1f} %."
    )


def worked_examples(cases: Sequence[Case], count: int = 3) -> list[Case]:
    """A fair choice: the first of each pattern of right and wrong answers, the most frequent pattern first.

    Picking only successes would flatter the method; this shows what usually happens, then what else does.
    """
    patterns: dict[tuple[bool, ...], list[Case]] = {}
    for case in cases:
        patterns.setdefault(tuple(answer.right for answer in case.answers), []).append(case)
    by_frequency = sorted(patterns.values(), key=len, reverse=True)
    longest = max(map(len, by_frequency), default=0)
    return [group[i] for i in range(longest) for group in by_frequency if i < len(group)][:count]


def write_page(
    path: Path, title: str, notes: Sequence[str], tables: Mapping[str, Sequence[Row]], figure: bytes,
    cases: Sequence[Case], curve: bytes = b"",
) -> None:  # fmt: skip
    """Write the page: notes, tables by their titles, figures (PNG), and worked examples."""
    shown = [table(name, rows) for name, rows in tables.items()]
    about = {
        "title": title,
        "notes": notes,
        "tables": shown,
        "figure": figure,
        "cases": cases,
        "curve": curve,
    }
    write_atomic(path, render("quickstart", **about, side=320))


def draw_figure(rows: Sequence[Row], title: str) -> bytes:
    """Accuracy and context tokens of each mode side by side, as PNG.

    Raises:
        ValueError: nothing to draw.
    """
    if not rows:
        raise ValueError("the figure needs at least one row")
    # Not pyplot: it would keep the figure in global state and may ask for a display.
    from matplotlib.figure import Figure

    ink, muted = "#1f2937", "#6b7280"
    figure = Figure(figsize=(9.0, 1.5 + 0.5 * len(rows)), dpi=120, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=ink)
    tokens = [row.context_tokens for row in rows]
    panels = (
        ([100 * row.accuracy for row in rows], "#2563eb", "accuracy (%)", "{:.1f}", 112.0),
        (tokens, "#d97706", "context tokens per question", "{:.0f}", 1.15 * max(1.0, *tokens)),
    )
    both = figure.subplots(1, 2, sharey=True)
    for axes, (values, colour, label, form, end) in zip(both, panels, strict=True):
        bars = axes.barh(range(len(rows)), values, height=0.6, color=colour)
        axes.bar_label(bars, labels=[form.format(v) for v in values], padding=3, fontsize=9, color=ink)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
        axes.set_xlim(0, end)
        axes.set_xlabel(label, color=muted)
        axes.tick_params(colors=muted, length=0)
        axes.tick_params(axis="y", labelcolor=ink)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def draw_curve(metrics: Path, rows: Mapping[str, Row]) -> bytes:
    """What was right while the memory was trained, beside what the modes reach in the end, as PNG.

    Args:
        metrics: the training's metrics.jsonl.
        rows: of the modes; RAG and the baseline are drawn as lines.

    Returns:
        The image; nothing where the training was not evaluated on the way.
    """
    found = [row for row in read_jsonl(metrics) if "eval_accuracy" in row] if metrics.is_file() else []
    if len(found) < 2:
        return b""
    from matplotlib.figure import Figure

    ink, muted = "#1f2937", "#6b7280"
    figure = Figure(figsize=(9.0, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    steps, right = [row["step"] for row in found], [100 * row["eval_accuracy"] for row in found]
    axes.plot(steps, right, marker="o", color="#2563eb", label="memory trained in this run")
    for name, style in (("rag", "--"), ("baseline", ":")):
        if name in rows:
            axes.axhline(100 * rows[name].accuracy, linestyle=style, color=muted, label=rows[name].label)
    asked = f"{found[-1]['eval_examples']:.0f} questions about towns it never saw"
    axes.set_title(f"While it was trained: {asked}", loc="left", fontsize=12, color=ink)
    axes.set(xlim=(0, None), ylim=(0, 102))
    axes.set_xlabel("steps", color=muted)
    axes.set_ylabel("right (%)", color=muted)
    axes.tick_params(colors=muted, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


# --- every benchmark in every mode ---

OVEN = ("query", "entity")
NOTES = (
    "The embedded models on the embedded world, in the benchmarks' formats: the numbers say that everything "
    "runs, and how the modes compare here; beside the paper's they mean nothing. Questions are asked bare: "
    "this backbone has read neither instructions nor options.",
    "mrag_bench: the official rules look for a letter, which it never says; overall_named counts an option "
    "that is named by its text. The same holds for mmmu, but for its open questions.",
    "oven_*: title_match counts titles named word for word; oven: the official score of the linked answers.",
)
_COSTS = {"context_tokens": 1, "prompt_tokens": 1, "seconds": 3}


def all_steps(settings: QuickSettings, progress: Progress = quiet) -> list[Step]:
    """Files, index; a memory, where the package ships none; a bank; and one step a benchmark."""
    from comem.modes import MODES

    folder, shipped, bank = settings.folder, shipped_memory(), settings.folder / "bank.safetensors"
    inner = replace(settings, output=folder / "training", all_benchmarks=False, no_flags=True, flags=None)
    training = [] if shipped else [
        replace(step, name=f"memory_{step.name}", title=f"no memory is shipped: {step.title}",
                outputs=tuple(f"training/{path}" for path in step.outputs))
        for step in town_steps(inner, progress) if step.name in ("world", "index", "train", "merge")
    ]  # fmt: skip
    encoder = shipped or folder / "training" / "encoder"

    def answering(name: str) -> None:
        data, output = folder / "data", folder / "answers" / name
        asked = {"benchmark": name, "data": data / FOLDERS[name], "images": data / "images", "prompt": STYLE}
        answer(folder, tuple(MODES), progress, bank=bank, **asked, output=output)
        if name.startswith("oven_"):
            link(folder, name, tuple(MODES))

    return [
        Step("files", "writing the embedded world's questions in every benchmark's format",
             lambda: build_files(settings.files), ("data",), _sizes(settings.files)),
        Step("index", "indexing the passages by their images (CLIP + FAISS)",
             lambda: index(folder / "data" / "wit.tsv.gz", folder / "index", progress), ("index",)),
        *training,
        Step("encode", "encoding every item once, into a memory bank",
             lambda: encode(encoder, folder / "index", bank, progress),
             ("bank.safetensors",), _made_by()),
        *(Step(f"answer_{name}", f"answering {name}: {', '.join(MODES)}", partial(answering, name),
               (f"answers/{name}",), {"modes": list(MODES), "k": ITEMS}) for name in FOLDERS
          if name != "coco_caption"),  # scored by a package of the extra "captions"
    ]  # fmt: skip


def link(folder: Path, name: str, modes: Sequence[str]) -> None:
    """Wikidata ids of the answers, as the official score of OVEN wants them."""
    from comem.linking.build import build_title_index
    from comem.linking.link import LinkSettings, link_file
    from comem.linking.titles import TOKENIZERS

    titles = folder / "data" / "oven" / "Wiki6M_ver_1_0_title_only.jsonl"
    index = build_title_index(titles, folder / "titles", TOKENIZERS["words"](None))
    for mode in modes:
        answers = folder / "answers" / name / mode
        link_file(index, answers / "predictions.jsonl", answers / "linked.jsonl", LinkSettings())


def score_oven(folder: Path, mode: str) -> None:
    """Both sets of OVEN, linked, as a scored folder of their own beside theirs."""
    from comem.eval.score import score_files

    answers, data = folder / "answers", folder / "data" / "oven"
    files = ScoreFiles(
        predictions={part: answers / f"oven_{part}" / mode / "linked.jsonl" for part in OVEN},
        references={part: data / f"oven_{part}_val.jsonl" for part in OVEN},
    )
    report, place = score_files("oven", files), answers / "oven" / mode
    run = read_json(answers / "oven_query" / mode / RUN)
    write_json(place / RUN, {**run, "config": {**run["config"], "benchmark": "oven"}})
    write_json(place / METRICS, {"benchmark": "oven", "count": report.count, **report.metrics})


def all_outcome(folder: Path, modes: Sequence[str] = ()) -> Outcome:
    """OVEN's official score, the report, and what a question cost, each benchmark counting alike."""
    from comem.eval.report import FIGURE, PAGE, write_report
    from comem.eval.results import NONE, overview
    from comem.modes import MODES

    modes, answers = modes or tuple(MODES), folder / "answers"
    if all((answers / f"oven_{part}").is_dir() for part in OVEN):
        for mode in modes:
            score_oven(folder, mode)
    results = write_report([answers], folder / "report", "Every benchmark in every mode", NOTES)
    found, costs = overview(results), []
    for mode in modes:
        means = [each.metrics["mean"] for each in results if each.mode == mode and "mean" in each.metrics]
        costs.append((mode, *(f"{fmean(each[key] for each in means):.{n}f}" for key, n in _COSTS.items())))
    headings = ("benchmark · metric", *(column.label for column in found.columns))
    scores = [  # without intervals, for which a terminal is too narrow
        (f"{name} · {metric}", *(f"{value.value:.2f}" if value else NONE for value in values))
        for name, metric, values in found.rows
    ]
    tables = (
        ("Every benchmark in every mode (percent, official scores)", headings, scores),
        ("What a question costs, on the average", ("mode", *_COSTS), costs),
    )
    files = {"page, with intervals": folder / "report" / PAGE, "figure": folder / "report" / FIGURE}
    return Outcome(tables, NOTES, files | {"run folders": answers / "BENCHMARK" / "MODE"})
