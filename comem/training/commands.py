"""`comem train` and `comem merge`: what they do with the command line's settings, and what is printed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from comem.config import DryRun, option
from comem.io.console import print_facts

if TYPE_CHECKING:
    from comem.memory.encoder import MemoryEncoder
    from comem.training.interrupt import Interrupted
    from comem.training.plan import Plan
    from comem.training.settings import TrainSettings
    from comem.training.trainer import TrainResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainPlan(DryRun):
    """Looking at a training run before it starts.

    Attributes:
        dry_run: print the plan: parameters, memory, hours.
        tflops: 10¹² operations a second, for the hours of --dry-run: an assumption.
    """

    tflops: float = 300.0


def run_train(settings: TrainSettings, plan: TrainPlan) -> TrainResult | Interrupted | Plan:
    """Train, or only plan; after Ctrl-C what has been saved."""
    if plan.dry_run:
        from comem.training.plan import make_plan

        return make_plan(settings, plan.tflops)
    from comem.training.interrupt import Interrupted
    from comem.training.run import train

    try:
        return train(settings)
    except Interrupted as stop:
        return stop


def show_train(result: TrainResult | Interrupted | Plan, settings: TrainSettings) -> int:
    """Print where the run lies; 130 after Ctrl-C."""
    from comem.training.interrupt import Interrupted
    from comem.training.plan import Plan
    from comem.training.ranks import state

    if isinstance(result, Interrupted):
        logger.warning("%s", result)
        return result.exit_code
    if isinstance(result, Plan):
        print_facts(result.lines())
    elif state().is_main_process:
        rows = [("run folder", str(result.folder)), ("encoder", str(result.checkpoint))]
        rows += [("steps", f"{result.steps:,} in {result.seconds:,.0f} s")]
        rows += [(name, f"{value:.4f}") for name, value in result.metrics.items()]
        print_facts([*rows, ("next", f"comem merge {result.folder} {result.folder / 'merged'}")])
    return 0


@dataclass(frozen=True)
class MergeSettings:
    """From a run folder to an encoder folder.

    Attributes:
        run: run folder of comem train, or one of its checkpoints.
        out: folder to write; new or empty.
        adapter: keep a small adapter beside the base model.
        dtype: of the merged weights; auto: as the base is stored.
    """

    run: Path = option(positional=True)
    out: Path = option(positional=True)
    adapter: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


def run_merge(settings: MergeSettings, dry: DryRun) -> MemoryEncoder | list[tuple[str, str]]:
    """Merge a run into an encoder folder, or say what would be merged."""
    from comem.training.merge import merge_plan, merge_run

    work = merge_plan if dry.dry_run else merge_run
    return work(settings.run, settings.out, settings.adapter, settings.dtype)


def show_merge(result: MemoryEncoder | list[tuple[str, str]], settings: MergeSettings) -> None:
    """Print the plan, or where the encoder lies."""
    print_facts(result if isinstance(result, list) else [("encoder", str(settings.out))])
