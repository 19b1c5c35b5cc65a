"""Checkpoints of a run: an adapter folder (LoRA + Q-Former) plus the optimizer's state, nothing pickled.

`checkpoints/step-00000800/` holds what `MemoryEncoder.save` writes, so that every checkpoint is a usable
encoder, and beside it `optimizer.safetensors` and `state.json`. The random state needs no file: data
order and dropout are functions of (seed, step), see the trainer. A folder appears under its name by one
rename when it is complete; what a crash left half-written keeps its temporary name and is swept away.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from comem.io.files import (
    SUMS,
    StorageError,
    compare_sums,
    new_folder,
    read_json,
    remove_folder,
    sums_of,
    sweep,
    write_json,
    write_sealed,
)
from comem.memory.bank import read_tensors
from comem.memory.encoder import TrainableEncoder
from comem.training.optimizer import AnyOptimizer, parts, state_of

STATE = "state.json"
_BEFORE = "remove this checkpoint's folder: the run then goes on from the one before"


@dataclass(frozen=True)
class RunState:
    """Where a run stands: `step` optimizer steps done, `elapsed` seconds, `skipped` faults so far."""

    step: int = 0
    elapsed: float = 0.0
    finished: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    skipped: int = 0


def step_name(step: int) -> str:
    """The folder of a checkpoint after so many steps."""
    return f"step-{step:08d}"


def save_checkpoint(
    folder: Path,
    state: RunState,
    optimizer: AnyOptimizer,
    save_encoder: Callable[[Path], Any],
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write `folder/step-…` complete or not at all.

    Args:
        folder: the run's `checkpoints` folder.
        state: of the run; its step names the folder.
        optimizer: whose state is kept.
        save_encoder: writes the encoder's files into the folder that it is given.
        check: looks at the written folder before it gets its name (`compare`).

    Raises:
        StorageError: no space left; earlier checkpoints are untouched.
        Whatever `check` raises: this checkpoint is removed, earlier ones are untouched.
    """
    final = folder / step_name(state.step)
    try:
        with new_folder(final) as temporary:
            save_encoder(temporary)
            save_file(optimizer_tensors(optimizer), temporary / "optimizer.safetensors")
            write_sealed(temporary / STATE, {**asdict(state), SUMS: sums_of(temporary)})
            if check:
                check(temporary)
    except StorageError as error:
        raise StorageError(
            error.errno,
            f"no space left for a checkpoint at step {state.step}; free some space and run the same command "
            "again, it resumes from the last complete checkpoint",
            str(final),
        ) from error
    return final


def compare(folder: Path, encoder: TrainableEncoder, optimizer: AnyOptimizer) -> None:
    """Read a written checkpoint as a resumed run would, and compare every tensor with the one in memory.

    Raises:
        OSError: a tensor is missing, too many, or differs; names it.
    """
    state = encoder.trained_state()
    pairs = {name: (read_tensors(folder / name, check=False), held) for name, held in state.items()}
    optimizer_file = "optimizer.safetensors"
    pairs[optimizer_file] = (load_file(folder / optimizer_file), optimizer_tensors(optimizer))
    for part, (read, held) in pairs.items():
        wrong = sorted(read.keys() ^ held.keys())
        wrong = wrong or [name for name, tensor in held.items() if not torch.equal(read[name], tensor.cpu())]
        if wrong:
            raise OSError(
                f"{part} of the first checkpoint does not read back as it was written "
                f"({len(wrong)} of {len(held)} tensors, e.g. {wrong[0]!r}), so the run could not be resumed: "
                "check the disk, or train in a folder on another one (output=DIR)"
            )


def clean(folder: Path) -> None:
    """Remove what a crash left half-written; version 0.1 named it `.writing-…`."""
    sweep(folder)
    for path in folder.glob(".*writing-*"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob("step-*/state.json"))


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    return next(reversed(checkpoints(folder)), None)


def best(folder: Path) -> Path | None:
    """The checkpoint with the best evaluation: most right answers, then least loss; else the newest."""
    rated = [(read_state(path).metrics, path) for path in checkpoints(folder)]
    rated = [(metrics, path) for metrics, path in rated if "eval_loss" in metrics]
    if not rated:
        return latest(folder)
    return max(rated, key=lambda pair: (pair[0].get("eval_accuracy", 0.0), -pair[0]["eval_loss"]))[1]


def keep_last(folder: Path, count: int, also: Path | None = None) -> None:
    """Remove all but the newest `count` checkpoints, and `also` (the best one)."""
    for path in checkpoints(folder)[:-count]:
        if path != also:
            remove_folder(path)


def read_state(checkpoint: Path) -> RunState:
    """The state of a checkpoint."""
    path = checkpoint / STATE
    try:
        kept = {name: value for name, value in read_json(path).items() if name != SUMS}
        return RunState(**kept)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a run's state ({error}); {_BEFORE}") from error


def check_whole(checkpoint: Path) -> None:
    """Refuse a checkpoint whose files are not as they were written; those of 0.2 have no checksums.

    Raises:
        ValueError: names the file and the remedy.
    """
    if wrong := compare_sums(checkpoint, read_json(checkpoint / STATE).get(SUMS, {})):
        raise ValueError(f"{wrong[0]}, or {_BEFORE}")


def write_summary(folder: Path, state: RunState) -> None:
    """Write the run's `metrics.json`."""
    summary = {"steps": state.step, "seconds": state.elapsed, "skipped": state.skipped}
    write_json(folder / "metrics.json", {**summary, **state.metrics})


def optimizer_tensors(optimizer: AnyOptimizer) -> dict[str, Tensor]:
    """The optimizer's state as `{"<parameter name>/<slot>": tensor}`; groups carry their `names`."""
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for slot, value in state_of(optimizer, parameter).items():
                tensors[f"{name}/{slot}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def load_optimizer(optimizer: AnyOptimizer, path: Path) -> None:
    """Put saved state back into the optimizer.

    Raises:
        ValueError: the state is of other parameters, or of other shapes.
    """
    tensors = load_file(path)
    groups = [(part, group) for part in parts(optimizer) for group in part.param_groups]
    for owner, group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            prefix = f"{name}/"
            slots = {key[len(prefix) :]: tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
            for slot, value in slots.items():
                if value.ndim and value.shape != parameter.shape:
                    raise ValueError(
                        f"{path}: {name} has shape {tuple(value.shape)}, the model {tuple(parameter.shape)}; "
                        "this checkpoint is of another run"
                    )
                if slot != "step":  # AdamW keeps its step counts on the CPU
                    slots[slot] = value.to(parameter.device)
            if slots:
                owner.state[parameter] = slots
    if tensors:
        raise ValueError(f"{path}: state of unknown parameters, e.g. {next(iter(tensors))!r}: of another run")
