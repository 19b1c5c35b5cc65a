"""`comem profile`: its settings, its function, what is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from comem.config import option
from comem.io.console import Progress, print_facts, print_table, quiet

if TYPE_CHECKING:
    from comem.profiling.measure import Results

Mode = Literal["baseline", "rag", "comem", "comem-bank"]


@dataclass(frozen=True)
class ProfileSettings:
    """What answering costs, by mode, items and batch size.

    Shapes have random weights and need no download. Results are written after every cell: profile.json,
    profile.md, profile.png.

    Attributes:
        backbone: a shape (tiny, cpu, qwen2_5_vl_7b …), else a model.
        out: folder of the results.
        k: items a question.
        modes: who answers.
        batch: questions at once.
        engine: who decodes (comem, transformers).
        resume: keep the finished cells of an earlier run.
        device: cpu, cuda, cuda:1 … (default: a GPU if there is one).
        dtype: of the weights (default: bfloat16 on a GPU, else float32).
        item_tokens: an item, image included.
        question_tokens: a question, image included.
        answer_tokens: generated.
        image_tokens: of every image (default: 324 in items, 256 in questions).
        encode_batch: items per call of the encoder.
        seconds_per_cell: for repetitions.
        repeats: at most, per cell.
        max_petaflop: skip cells of more operations than this.
        total_seconds: start no cell after this time.
        profile: also trace prefill, decoding and encoding (torch.profiler).
    """

    backbone: str = option(metavar="NAME")
    out: Path = option(metavar="DIR")
    k: tuple[int, ...] = (0, 3, 10, 50)
    modes: tuple[Mode, ...] = ("baseline", "rag", "comem", "comem-bank")
    batch: tuple[int, ...] = (1, 8, 32)
    engine: tuple[str, ...] = option(("comem",), metavar="NAME")
    resume: bool = False
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    item_tokens: int = 640
    question_tokens: int = 400
    answer_tokens: int = 64
    image_tokens: int | None = None
    encode_batch: int = 32
    seconds_per_cell: float = 10.0
    repeats: int = 20
    max_petaflop: float | None = None
    total_seconds: float | None = None
    profile: bool = False


def profile(settings: ProfileSettings, progress: Progress = quiet) -> Results:
    """Measure, cell by cell; profile.json, profile.md, profile.png and traces are written.

    Raises:
        ValueError: an unknown name, lengths that cannot be, or results of other settings to be gone on with.
    """
    import torch

    from comem.profiling.bench import Bench, open_model
    from comem.profiling.measure import FILE, Limits, Results, header, run_cells
    from comem.profiling.prompts import Lengths, preprocess_seconds
    from comem.profiling.show import save
    from comem.profiling.timing import grid
    from comem.profiling.traces import trace_hot_paths

    cells = grid(settings.modes, settings.k, settings.batch, settings.engine)
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = settings.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    lengths = Lengths.of(
        settings.item_tokens, settings.question_tokens, settings.answer_tokens, settings.image_tokens
    )
    spend = (settings.seconds_per_cell, settings.repeats, settings.max_petaflop, settings.total_seconds)
    model, process = open_model(settings.backbone, device, getattr(torch, dtype))
    with Bench(model, lengths, settings.encode_batch) as bench:
        results = Results(settings.out / FILE, header(settings.backbone, bench), resume=settings.resume)
        if process is not None:
            results.write(preprocess_seconds=preprocess_seconds(process, lengths))
        with progress("profiling", len(cells), unit="cells") as advance:
            run_cells(bench, cells, results, Limits(*spend), done=lambda cell, row: advance())
        if settings.profile:
            k = min((k for k in settings.k if k), key=lambda k: abs(k - 10), default=10)
            results.write(traces=trace_hot_paths(bench, k, settings.engine[0], settings.out))
    save(results, settings.out)
    return results


def show_profile(results: Results, settings: ProfileSettings) -> None:
    """Print a table for each engine, what the traces found, and where the files are."""
    from comem.profiling.show import files, tables

    for title, headings, rows in tables(results):
        print_table(headings, rows, title)
    print_facts([(name, str(path)) for name, path in files(settings.out).items() if path.is_file()])
