"""The one check whether a folder holds the run that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from comem.io.run_folder import check_inputs, check_same, checksums, differences, settle


def test_settings_are_noted_and_then_compared(tmp_path: Path) -> None:
    path = tmp_path / "run" / "settings.json"
    settings = {"seed": 0, "optim": {"lr": 0.1}, "languages": ("en", "bg"), "endpoint": "a"}
    assert not settle(path, settings)
    assert settle(path, settings) and settle(path, {**settings, "endpoint": "b"}, free=("endpoint",))
    with pytest.raises(ValueError, match=r"begun with other settings \(optim.lr: 0.1 there, 0.2 now\)"):
        settle(path, {**settings, "optim": {"lr": 0.2}})
    assert settle(path, {**settings, "optim": {"lr": 0.2}}, free=("optim",))  # and all below it


def test_every_difference_is_named_with_both_values() -> None:
    there, now = {"a": 1, "gone": True, "same": [1]}, {"a": 2, "new": {"b": "x"}, "same": (1,)}
    assert differences(there, now) == [
        "a: 1 there, 2 now", "gone: True there, None now", "new.b: None there, 'x' now",
    ]  # fmt: skip
    assert differences(there, now, ("a", "gone", "new")) == []
    with pytest.raises(ValueError, match="^part holds another run .*; use the same values or"):
        check_same("part", there, now)


def test_inputs_that_have_changed_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    inputs = {"data": tmp_path / "b", "images": tmp_path / "folder"}
    before = checksums(inputs)
    check_inputs(tmp_path, before, checksums(inputs))
    check_inputs(tmp_path, before, {})
    (tmp_path / "folder" / "a").write_text("2")
    with pytest.raises(ValueError, match=r"images \(.*folder\) has changed since the run was begun"):
        check_inputs(tmp_path, before, checksums(inputs))


def test_secrets_in_addresses_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from comem.io.run_folder import run_manifest, without_secrets

    cases = {
        "http://me:pw@host:19530/x": "http://***@host:19530/x",
        "http://me:p@ss@host/a@b.png": "http://***@host/a@b.png",
        "--milvus=https://tok@host": "--milvus=https://***@host",
        "https://h/v1?api_key=abc&k=3": "https://h/v1?api_key=***&k=3",
        "https://h/a.jpg?X-Amz-Signature=f00&w=9#top": "https://h/a.jpg?X-Amz-Signature=***&w=9#top",
        "https://h/page?keyword=sun": "https://h/page?keyword=sun",
        "you@example.org": "you@example.org",
        "pics/a@b.png": "pics/a@b.png",
    }
    assert {text: without_secrets(text) for text in cases} == cases
    monkeypatch.setattr("sys.argv", ["comem", "index", "push", "--uri", "http://me:pw@host:1"])
    assert "pw" not in str(run_manifest()["command"])


@pytest.mark.parametrize(
    ("url", "key", "warned"),
    [("http://h.org:19530", "k", True), ("http://me:pw@h.org", "", True), ("http://h.org", "", False),
     ("https://h.org", "k", False), ("http://127.0.0.1:19530", "k", False), ("notes.db", "k", False),
     ("http://a.localhost/v1", "k", False), ("http://127.h.org", "k", True)],
)  # fmt: skip
def test_a_key_that_is_sent_unencrypted_is_warned_of(
    url: str, key: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    from comem.io.run_folder import warn_of_open_key

    warn_of_open_key(url, key)
    assert ("unencrypted" in caplog.text) is warned and "pw" not in caplog.text
