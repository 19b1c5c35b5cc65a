"""Progress: a bar on stderr, or nothing."""

from __future__ import annotations

import pytest

from comem.io.console import Progress, bar, quiet


@pytest.mark.parametrize("progress", [bar, quiet])
def test_stages_and_figures(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("encoding", 5, done=1, unit="items") as advance:
        advance()
        advance(3, loss=0.5)
    shown = capsys.readouterr()
    assert not shown.out
    assert ("encoding" in shown.err and "5/5" in shown.err and "loss=0.500" in shown.err) == (progress is bar)
