"""Folders appear whole or not at all: a full disk, a kill -9 in mid-swap, a merge that does not fit."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from comem.backbones.hf import load_backbone
from comem.cli import main
from comem.config import save_config
from comem.io.files import StorageError, new_folder, write_json
from comem.memory.lora import LoraSettings
from comem.memory.settings import QFormerSettings
from comem.training.run import build_encoder
from comem.training.settings import TrainSettings

FULL = (
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
)


@pytest.fixture()
def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize("error", FULL, ids=["system", "safetensors"])
@pytest.mark.parametrize("older", [True, False])
def test_no_space_left_for_a_folder(tmp_path: Path, error: Exception, older: bool) -> None:
    folder = tmp_path / "merged"
    if older:
        folder.mkdir()
        (folder / "config.json").write_text("older")
    with pytest.raises(StorageError) as full, new_folder(folder) as temporary:
        (temporary / "config.json").write_text("newer")
        raise error
    said = str(full.value)
    assert str(folder) in said and ".tmp" not in said and "free some space" in said
    assert ("the older folder is as it was" if older else "nothing was written") in said
    assert [p.name for p in tmp_path.iterdir()] == ["merged"] * older
    assert not older or (folder / "config.json").read_text() == "older"


def test_merge_where_files_may_not_grow(
    tmp_path: Path, tiny_backbone_folder: Path, full_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real refusal of the system: `comem merge` says it in one line, and goes through afterwards."""
    small = QFormerSettings(num_queries=2, depth=1, heads=1, ff_mult=1)
    run, out, model = tmp_path / "run", tmp_path / "out" / "merged", str(tiny_backbone_folder)
    settings = TrainSettings(model=model, output=str(run), lora=LoraSettings(2, 4), qformer=small)
    checkpoint = run / "checkpoints" / "step-00000001"
    build_encoder(settings, load_backbone(model)).save(checkpoint)
    write_json(checkpoint / "state.json", {"step": 1})
    save_config(settings, run / "config.yaml")
    with full_disk(200_000):  # the merged weights take about 600 kB, all else less than this
        assert main(["merge", str(run), str(out)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("comem: error:") and "free some space" in said and str(out) in said
    assert list(out.parent.iterdir()) == []
    assert main(["merge", str(run), str(out)]) == 0
    assert (out / "qformer.safetensors").is_file()


def test_what_a_killed_save_left_goes_with_the_next(tmp_path: Path, dead_process: int) -> None:
    for name in (f".merged.{dead_process}.tmp", f".merged.{os.getppid()}.tmp", ".merged.notes.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half")
    with new_folder(tmp_path / "merged") as temporary:
        (temporary / "a").write_text("x")
    left = {p.name for p in tmp_path.iterdir()}  # a living process may still be writing
    assert left == {"merged", f".merged.{os.getppid()}.tmp", ".merged.notes.tmp"}


def test_a_kill_in_mid_swap_loses_nothing(tmp_path: Path, dead_process: int) -> None:
    folder = tmp_path / "merged"
    with new_folder(folder) as temporary:
        (temporary / "a").write_text("older")
    folder.rename(tmp_path / f".merged.{dead_process}.old")  # killed between the two renames
    shutil.copytree(tmp_path / f".merged.{dead_process}.old", tmp_path / f".merged.{dead_process}.tmp")
    with pytest.raises(StorageError, match="older folder is as it was"), new_folder(folder):
        raise FULL[0]
    assert (folder / "a").read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]


@pytest.fixture()
def moved(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`moved(n)`: the n-th rename fails for want of space."""

    def fail_at(number: int) -> None:
        calls, replace = [0], os.replace

        def sometimes(source: Path, target: Path) -> None:
            calls[0] += 1
            if calls[0] == number:
                raise FULL[0]
            replace(source, target)

        monkeypatch.setattr(os, "replace", sometimes)

    return fail_at


@pytest.mark.parametrize("number", [1, 2])
def test_a_failing_rename_leaves_the_older_folder(
    tmp_path: Path, moved: Callable[[int], None], number: int
) -> None:
    folder = tmp_path / "merged"
    with new_folder(folder) as temporary:
        (temporary / "a").write_text("older")
    moved(number)
    with pytest.raises(StorageError), new_folder(folder) as temporary:
        (temporary / "a").write_text("newer")
    assert (folder / "a").read_text() == "older" and len(list(tmp_path.iterdir())) == 1
