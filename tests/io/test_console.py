"""What commands print."""

from __future__ import annotations

import pytest

from comem.io.console import print_facts, print_line, print_table


def test_data_is_shown_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are no markup."""
    print_table(("id", "text [b]"), [("[a]", "[bold]x[/bold]")], "title [t]")
    print_facts([("bank", "runs/[x]")])
    print_line("note: [y]")
    shown = capsys.readouterr().out
    assert all(
        text in shown for text in ("text [b]", "[a]", "[bold]x[/bold]", "title [t]", "runs/[x]", "note: [y]")
    )
