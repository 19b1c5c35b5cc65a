"""`comem ask` and `comem chat`."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from store.conftest import QUESTION

from comem.cli import main
from comem.store.commands import Chat, ChatSettings
from comem.toy.draw import png


@pytest.fixture
def trip(tmp_path: Path, towns) -> Path:
    folder = tmp_path / "trip"
    folder.mkdir()
    for n, town in enumerate(towns[:3]):
        (folder / f"{n}.png").write_bytes(png(town, 0))
        (folder / f"{n}.txt").write_text(f"{town.name}: {town.passage()}")
        (tmp_path / f"asked{n}.png").write_bytes(png(town, 1))
    return folder


def test_ask_makes_the_memory_and_says_what_it_used(trip: Path, towns, capsys: pytest.CaptureFixture) -> None:
    words = ["ask", str(trip), QUESTION, "--image", str(trip.parent / "asked1.png")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "3 items added" in said and f"\n{towns[1].value('stone')}\n" in said and towns[1].name in said
    assert (trip.parent / "trip.memory").is_dir()
    assert main([*words[:1], f"{trip}.memory", *words[2:], "-k", "1"]) == 0  # the memory itself, opened again
    said = capsys.readouterr().out
    assert "added" not in said and towns[1].value("stone") in said
    assert main(["ask", str(trip / "none"), "x"]) == 2
    assert "check the path" in capsys.readouterr().err
    assert main(["ask", str(trip), ""]) == 2


def test_a_folder_by_a_dot_and_one_that_was_not_finished(
    trip: Path, towns, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong question makes no memory; who is killed while a folder is added goes on with the next call."""
    from comem.store.memory import Memory

    monkeypatch.chdir(trip)
    for words in (["", "-k", "1"], ["x", "-k", "-1"], ["x", "--mode", "no"], ["x", "--by", "no"],
                  ["x", "--image", "no.png"], ["x", "--max-tokens", "0"]):  # fmt: skip
        assert main(["ask", ".", *words]) == 2
    assert main(["ask", "/", "x"]) == 2 and "beside it" in capsys.readouterr().err
    assert not (trip.parent / "trip.memory").exists()
    insert, done = Memory._insert, []

    def killed(self: Memory, *args) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(insert(self, *args))

    monkeypatch.setattr("comem.store.memory.BATCH", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Memory, "_insert", killed)
        assert main(["ask", ".", "x"]) != 0
    with Memory(trip.parent / "trip.memory") as memory:
        assert len(memory) == 1
    capsys.readouterr()
    assert main(["ask", ".", QUESTION, "--image", "../asked2.png", "-k", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 items added, 1 unchanged" in said and towns[2].value("stone") in said
    assert main(["ask", ".", QUESTION, "--image", "../asked1.png", "-k", "1"]) == 0
    assert "added" not in capsys.readouterr().out


def test_a_conversation(remembered, towns, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x.png").write_bytes(png(towns[0], 1))
    talk = Chat(remembered, ChatSettings(tmp_path))

    def say(line: str) -> str:
        assert talk.say(line)
        return capsys.readouterr().out

    assert "/add TEXT" in say("/help") and "nothing has been asked" in say("/used")
    say(f"/image {tmp_path / 'x.png'}")
    assert say(QUESTION).strip() == towns[0].value("stone")
    assert towns[0].id in say("/used")
    assert "remembered" in say("/add The cat sleeps.") and "The cat sleeps." in say("/list")
    assert "remembered" in say(f"/add {tmp_path / 'x.png'}") and "(an image)" in say("/list")
    assert "forgotten" in say(f"/delete {towns[0].id}") and "no item" in say(f"/delete {towns[0].id}")
    say("/mode rag")
    say("/k 1")
    assert talk.settings.mode == "rag" and talk.settings.k == 1
    assert "remembered" in say("/add Ann's cat sleeps.") and "Ann's cat" in say("/list")
    assert "remembered" in say(f"/add {'w' * 300}") and "no such file" in say("/add nowhere.jpg")
    assert "as in /k 3" in say("/k many") and "nothing to remember" in say("/add")
    (tmp_path / "Ann's x.png").write_bytes(png(towns[0], 1))
    for typed in (f"{tmp_path}/Ann's x.png", f'"{tmp_path}/Ann\'s x.png"'):
        assert say(f"/image {typed}") == "" and talk.image == tmp_path / "Ann's x.png"
    talk.settings, own = replace(talk.settings, user_id="ann"), talk.settings
    assert f"no item '{towns[1].id}' of ann" in say(f"/delete {towns[1].id}") and remembered.get(towns[1].id)
    talk.settings = own
    assert "did you mean" in say("/mode rags") and "no such image" in say("/image nowhere.png")
    assert len(talk.turns) == 1
    say("/new")
    assert talk.turns == [] and not talk.say("/quit")


def test_chat_reads_lines(trip: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/list\n/quit\n"))
    assert main(["chat", str(trip)]) == 0
    assert "3 items" in capsys.readouterr().out
