"""Steps run once, go on after a crash, and run again when their settings change."""

from __future__ import annotations

from pathlib import Path

import pytest

from comem.quickstart import STATE, Step, run_steps


class Log:
    """Two steps that write files, and a list of what ran and was said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran, self.said = folder, list[str](), list[str]()
        self.fail = ""

    def step(self, name: str, **settings: object) -> Step:
        def work() -> None:
            self.ran.append(name)
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / f"part{len(self.ran)}").write_text("x")
            if self.fail == name:
                raise OSError("no space")

        return Step(name, f"the {name} step", work, (name,), settings)

    def go(self, first: int = 1, second: int = 1) -> list[str]:
        self.ran.clear()
        run_steps([self.step("a", x=first), self.step("b", x=second)], self.folder, say=self.said.append)
        return list(self.ran)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "run")


def test_runs_once(log: Log) -> None:
    assert log.go() == ["a", "b"]
    assert log.go() == []
    assert "1/2 the a step" in log.said[0] and "kept from the last run" in log.said[-1]


def test_a_changed_setting_runs_the_step_and_all_after_it(log: Log) -> None:
    log.go()
    assert log.go(second=2) == ["b"]
    assert len(list((log.folder / "b").iterdir())) == 1, "outputs of the old settings must be removed"
    assert log.go(first=2, second=2) == ["a", "b"]


def test_goes_on_after_a_failure_with_what_it_has(log: Log) -> None:
    log.fail = "b"
    with pytest.raises(OSError, match="no space"):
        log.go()
    log.fail = ""
    assert log.go() == ["b"]
    assert len(list((log.folder / "b").iterdir())) == 2, "the part from before the failure must stay"


def test_a_missing_output_is_made_again(log: Log) -> None:
    log.go()
    for part in (log.folder / "b").iterdir():
        part.unlink()
    (log.folder / "b").rmdir()
    assert log.go() == ["b"]


def test_half_written_state_counts_as_none(log: Log) -> None:
    log.go()
    (log.folder / STATE).write_text('{"a": {"ke')
    assert log.go() == ["a", "b"]


def test_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="give another --output"):
        run_steps([], tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
