"""From the run folder to what is shown: rows, cases, table, figure and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.score_files import keyed, read_predictions
from comem.io.console import make_table, out
from comem.io.files import write_json
from comem.io.jsonl import read_json
from comem.io.manifest import run_manifest
from comem.quickstart import flags, towns
from comem.quickstart.figure import draw_figure
from comem.quickstart.page import write_page
from comem.quickstart.result import Answered, Case, Row, row, worked_examples
from comem.quickstart.settings import QuickSettings
from comem.quickstart.table import result_table
from comem.quickstart.work import contexts_of
from comem.types import Answer

if TYPE_CHECKING:
    from comem.types import Example

TOWNS = "Towns that no model has seen before"
FLAGS = "Real flags, real text"


def show_results(settings: QuickSettings) -> None:
    """Print the tables, write results.json, figure.png and page.html, and say where they are."""
    folder = settings.folder
    examples = towns.unseen_examples(folder)
    lines = {name: label for name, (label, *_) in towns.LINES.items() if (folder / "answers" / name).is_dir()}
    rows = _rows(folder / "answers", lines, examples, settings.items)
    tables: dict[str, list[Row]] = {TOWNS: list(rows.values())}
    notes = [legend(settings), compare(rows)]
    if settings.flags is not None:
        labels = {name: label for name, (label, _) in flags.LINES.items()}
        there = {name: label for name, label in labels.items() if (folder / "flags/answers" / name).is_dir()}
        asked = flags.flag_examples(settings)
        tables[FLAGS] = list(_rows(folder / "flags/answers", there, asked, settings.items).values())
        notes.append(
            "The embedded models have read neither flags nor ordinary text: the answers about them are poor, "
            "and printed as they are."
        )
    for title, shown in tables.items():
        out().print(result_table(shown, title))
    _show_recall(folder / "flags" / "recall.json")
    for note in notes:
        out().print(note)
    write_json(
        folder / "results.json",
        {title: [asdict(each) for each in shown] for title, shown in tables.items()}
        | {"notes": notes, "run": run_manifest({"settings": settings.as_dict()})},
    )
    draw_figure(tables[TOWNS], folder / "figure.png", TOWNS)
    cases = worked_examples(_cases(folder, lines, examples), 3)
    write_page(
        folder / "page.html", "CoMEM quickstart", notes, list(tables.items()), folder / "figure.png", cases
    )
    places = {"figure": "figure.png", "worked examples": "page.html", "numbers": "results.json"}
    for label, name in places.items():
        out().print(f"{label}: {folder / name}")
    out().print(f"run folder: {folder.resolve()}")


def legend(settings: QuickSettings) -> str:
    """What the labels mean."""
    return (
        f"baseline: the question alone. rag: {settings.items} retrieved items in the prompt. comem: the same "
        "items as 8 memory embeddings each; (shipped): with the memory in this package, trained ahead; "
        f"(fresh): with the one trained in this run, for {settings.train_seconds:.0f} seconds."
    )


def compare(rows: Mapping[str, Row]) -> str:
    """CoMEM beside RAG in one sentence, with the better trained memory that there is."""
    name = "comem_shipped" if "comem_shipped" in rows else "comem_fresh"
    memory, rag = rows[name], rows["rag"]
    share = f"{100 * memory.accuracy / rag.accuracy:.0f} %" if rag.accuracy else "–"
    fewer = rag.context_tokens / memory.context_tokens if memory.context_tokens else float("nan")
    return (
        f"{memory.label}: {share} of RAG's accuracy with {fewer:.1f} times fewer context tokens; "
        f"without knowledge {100 * rows['baseline'].accuracy:.1f} %."
    )


def _predictions(folder: Path, examples: Sequence[Example]) -> tuple[list[Answer], dict[str, float]]:
    """What a run folder holds for these questions, and the scores of those that were answered."""
    file = folder / "predictions.jsonl"
    found = keyed(file, torn_tail=True)
    scores = BENCHMARKS["toy"].score(read_predictions(file, whole=True), examples).scores["accuracy"]
    values = {score.example_id: score.value for score in scores if score.answered}
    predictions = []
    for example in examples:
        raw = found.get(example.id, {})
        ids = tuple(raw.get("knowledge_ids", ()))
        context, prompt = int(raw.get("context_tokens", 0)), int(raw.get("prompt_tokens", 0))
        text, seconds = str(raw.get("prediction", "")), float(raw.get("seconds", 0))
        predictions.append(Answer(text, context, prompt, seconds, example.id, ids))
    return predictions, values


def _rows(folder: Path, lines: Mapping[str, str], examples: Sequence[Example], items: int) -> dict[str, Row]:
    rows = {}
    for name, label in lines.items():
        predictions, values = _predictions(folder / name, examples)
        used = items if name != "baseline" else 0
        rows[name] = row(label, predictions, [values.get(p.example_id, 0.0) for p in predictions], used)
    return rows


def _cases(folder: Path, lines: Mapping[str, str], examples: Sequence[Example]) -> list[Case]:
    """Every question with what each mode answered."""
    contexts = contexts_of(folder / "index", folder / "retrieved" / "test.jsonl")
    answers: dict[str, list[Answered]] = {example.id: [] for example in examples}
    for name, label in lines.items():
        predictions, values = _predictions(folder / "answers" / name, examples)
        for p in predictions:
            answers[p.example_id].append(Answered(label, p.text, values.get(p.example_id, 0.0) == 1.0))
    return [Case(e, contexts[e.id].items, tuple(answers[e.id])) for e in examples]


def _show_recall(path: Path) -> None:
    """How often a distorted flag was found again."""
    if not path.is_file():
        return
    recall = read_json(path)["recall"]
    names = list(next(iter(recall.values())))
    shown = ((kind, *(f"{values[name]:.3f}" for name in names)) for kind, values in recall.items())
    out().print(make_table(("distortion", *names), shown, "Real flags: found again by their pictures"))
