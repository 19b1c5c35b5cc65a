"""Two CPU processes (gloo) against one: same losses, gradients and files; no example twice; no hanging."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from comem.training.ranks import check_launch, on_main
from tests.training.processes import ROOT, Runs, assert_same_training


@pytest.mark.parametrize("name", ["two", "two-micro"])
def test_two_processes_equal_one(name: str, runs: Runs) -> None:
    """Losses, gradient norms, and all saved tensors, AdamW's moments (sums of gradients) among them."""
    assert runs.errors(name) == ["", ""]
    assert_same_training(runs, name, name.replace("two", "one"))


@pytest.mark.parametrize("name", ["two", "two-micro", "sharded"])
def test_no_example_twice_in_a_pass(name: str, runs: Runs) -> None:
    """Nor one left out; the last step of a pass has one question, so one process has none."""
    shares = runs.ids(name)
    for steps in (range(0, 3), range(3, 6)):
        drawn = [one for share in shares for step in steps for batch in share[step] for one in batch]
        assert sorted(drawn) == [f"q{i}" for i in range(7)]
    assert [one for batch in shares[1][2] for one in batch] == [] != shares[0][2]


def test_processes_with_and_without_knowledge_and_pictures_were_among_them(runs: Runs) -> None:
    """What would hang a reducer that waits for every parameter: all steps of "two"."""
    assert [[step[0] for step in share[:2]] for share in runs.ids("two")] == [
        [["q0", "q2"], ["q3", "q5"]],
        [["q1"], ["q4"]],
    ]


def test_a_folder_in_use_stops_all_processes(runs: Runs) -> None:
    main, other = runs.errors("busy")
    holder = (runs.root / "holder").read_text()
    assert main.startswith("StorageError") and f"in use by process {holder}" in main
    assert other.startswith("MainProcessError") and "in use by process" in other


def test_a_signal_to_one_process_stops_all_after_the_same_step(runs: Runs) -> None:
    for error in runs.errors("stopped"):
        assert error.startswith("Interrupted: stopped by SIGTERM after step 2")
    assert [len(share) for share in runs.ids("stopped")] == [2, 2]


def test_one_process_goes_on_where_two_stopped(runs: Runs) -> None:
    assert runs.errors("alone") == [""] and len(runs.ids("alone")[0]) == 4
    assert_same_training(runs, "alone", "one")


def test_alone_there_is_nothing_to_agree_on() -> None:
    assert on_main(lambda: {"a": 1}) == {"a": 1}
    with pytest.raises(FileNotFoundError):
        on_main(lambda: os.stat("gone"))


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but accelerate sees 1 .*accelerate launch"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"DEEPSPEED; known here: .*ZeRO-3 \S*fsdp2.yaml, .*2.yaml"),
        ({"ACCELERATE_USE_FSDP": "true"}, r"fsdp_version=1; known: 2\. Use configs/accelerate/fsdp2.yaml"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "cpu_ram_efficient_loading is true .*reads the weights"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "offload_params is true .*set it to false: .*more GPUs"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "set it to false: .*checkpointing=true"),
    ],
)  # fmt: skip
def test_launches_that_would_train_something_else_are_refused(
    environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_launch()
    if any(name.startswith("FSDP") for name in environ):
        environ = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **environ}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        check_launch()


@pytest.mark.parametrize("path", sorted((ROOT / "configs/accelerate").iterdir()), ids=lambda path: path.name)
def test_accelerate_reads_the_config(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(path)).num_processes == yaml.safe_load(path.read_text())["num_processes"]
