"""`comem convert` and `comem parity`: their settings, and what is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from comem.config import option
from comem.io.console import print_line, print_table

if TYPE_CHECKING:
    from comem.compat.difference import Difference


@dataclass(frozen=True)
class ConvertCheckpointSettings:
    """A checkpoint of the authors': what is in it, and our encoder folder of it.

    Layouts: merged with Q-Former (converted), merged without (refused: the Q-Former is lost), raw run folder
    with adapter_model.safetensors (converted; needs --base). A CoMemo checkpoint becomes a model folder that
    answers (docs/comemo.md), BEM's SavedModel the judge of comem evaluate evqa --scorer bem. Nothing is
    unpickled. Training files: comem data convert.

    Attributes:
        source: a checkpoint of the authors'.
        out: encoder folder (default: only look).
        base: the model that was trained; it is compared.
        reader: write the stored reader here, as a model.
        question_vision: whose vision tower that reader gets: its own, or the encoder's, as the authors do.
        fold: fold a raw run folder's LoRA into the weights.
        min_pixels: of items' images (default: the paper's).
        max_pixels: of items' images (default: the paper's).
        dtype: of what is written (default: as stored).
        positions: of CoMemo: how image tokens are counted. The authors' weights were trained with
            dhr_released.
        decode_positions: of CoMemo: how decoded tokens go on; released is a defect of the authors' chat.
    """

    source: Path = option(positional=True, metavar="FOLDER")
    out: Path | None = option(None, positional=True, metavar="OUT")
    base: str = option("", metavar="NAME")
    reader: Path | None = option(None, metavar="DIR")
    question_vision: Literal["reader", "encoder"] = "reader"
    fold: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    positions: Literal["dhr", "dhr_released", "plain"] = "dhr_released"
    decode_positions: Literal["continue", "released"] = "continue"


@dataclass(frozen=True)
class ParitySettings:
    """Comparing our outputs with recorded ones.

    Exit code: 0 when every difference is within the tolerance, 1 when one is not.

    Attributes:
        folders: golden folders, with case_*.safetensors.
        tolerance: the largest difference allowed, where a golden folder names none of its own (CoMemo: 5e-5
            for outputs, 1e-5 for losses and gradients, integers and pixels exact).
    """

    folders: tuple[Path, ...] = option(positional=True, metavar="DIR")
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if not self.folders:
            raise ValueError("no folders: give at least one with case_*.safetensors")
        if not self.tolerance >= 0:
            raise ValueError(f"--tolerance {self.tolerance}: give 0 or more")


def parity(settings: ParitySettings) -> dict[Path, list[Difference]]:
    """How far each output of each case is from the recorded one, by folder.

    Raises:
        ValueError: a folder has no cases, or is not a checkpoint of the authors'.
    """
    from comem.compat.parity import run_parity

    # a shell's * brings what lies beside them, a README and other data
    golden = [path for path in settings.folders if not path.exists() or any(path.glob("case_*"))]
    folders = golden or settings.folders  # of which the first then says what is wrong
    return {folder: run_parity(folder) for folder in folders}


def show_parity(found: dict[Path, list[Difference]], settings: ParitySettings) -> int:
    """Print the differences; 1 if any is above the tolerance."""
    for folder, differences in found.items():
        rows = [(d.case, d.output, f"{d.max_abs:.2e}", _verdict(d, settings)) for d in differences]
        print_table(("case", "output", "largest difference", ""), rows, str(folder))
    all_found = [each for differences in found.values() for each in differences]
    far = [each for each in all_found if each.max_abs > _bound(each, settings)]
    worst = max((each.max_abs for each in all_found), default=0.0)
    bounds = sorted({_bound(each, settings) for each in all_found})
    said = (
        f"the tolerance of {bounds[0]:g}"
        if len(bounds) == 1
        else f"tolerances of {bounds[0]:g} to {bounds[-1]:g}"
    )
    print_line(f"largest of all: {worst:.2e}; {'ABOVE' if far else 'within'} {said}")
    return 1 if far else 0


def _bound(difference: Difference, settings: ParitySettings) -> float:
    """How far an output may be: as its golden folder says, else as the settings do."""
    return settings.tolerance if difference.allowed is None else difference.allowed


def _verdict(difference: Difference, settings: ParitySettings) -> str:
    return "ok" if difference.max_abs <= _bound(difference, settings) else "TOO FAR"
