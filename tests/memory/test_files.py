"""Folders appear whole or not at all: a full disk, a kill -9 in mid-swap, a merge that does not fit."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from comem.memory.encoder import MemoryEncoder
from comem.memory.files import new_folder
from comem.storage import StorageError
from comem.types import KnowledgeItem

ROOT = Path(__file__).resolve().parents[2]
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


def test_no_space_left_while_a_merged_encoder_is_saved(
    encoder: MemoryEncoder, items: list[KnowledgeItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "merged"
    merged = encoder.merge()
    merged.save(folder)
    files = {p.name: p.stat().st_ino for p in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise FULL[1]

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(StorageError, match="older folder is as it was.*merged'"):
        merged.save(folder)
    monkeypatch.undo()
    assert {p.name: p.stat().st_ino for p in folder.iterdir()} == files
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]
    assert MemoryEncoder.load(folder).fingerprint() == merged.fingerprint()


def test_merge_where_files_may_not_grow(tmp_path: Path, tiny_backbone_folder: Path) -> None:
    """A real refusal of the system, in a process of its own: `comem merge` says it in one line."""
    program = textwrap.dedent(
        """
        import resource, signal, sys
        from comem.backbones.hf import load_backbone
        from comem.cli import main
        from comem.config import save_config
        from comem.memory.lora import LoraSettings
        from comem.training.build import build_encoder
        from comem.training.settings import QFormerSettings, TrainSettings

        model, run, out = sys.argv[1:]
        small = QFormerSettings(num_queries=2, depth=1, heads=1, ff_mult=1)
        settings = TrainSettings(model=model, output=run, lora=LoraSettings(2, 4), qformer=small)
        build_encoder(settings, load_backbone(model)).save(run + "/checkpoints/step-00000001")
        save_config(settings, run + "/config.yaml")
        open(run + "/checkpoints/step-00000001/state.json", "w").write('{"step": 1}')
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        sys.exit(main(["merge", run, out]))
        """
    )
    out = tmp_path / "out" / "merged"
    words = [sys.executable, "-c", program, str(tiny_backbone_folder), str(tmp_path / "run"), str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    assert "free some space" in done.stderr and str(out) in done.stderr and "Traceback" not in done.stderr
    assert list(out.parent.iterdir()) == []


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
