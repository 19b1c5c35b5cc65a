"""Configuration: defaults, file, overrides; what is unknown or of the wrong type is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from comem.config import ConfigError, as_dict, load_config, save_config


@dataclass(frozen=True)
class Inner:
    rank: int = 16
    rate: float = 5e-5
    names: tuple[str, ...] = ("q_proj",)


@dataclass(frozen=True)
class Outer:
    model: str
    inner: Inner = field(default_factory=Inner)
    kind: Literal["cosine", "linear"] = "cosine"
    folder: Path | None = None
    pair: tuple[int, float] = (1, 2.0)
    extra: dict[str, Any] = field(default_factory=dict)
    size: int | str = 3
    flag: bool = False

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model is empty; name one")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_file_then_overrides_then_back(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "model: a\ninner:\n  rank: 8\n  rate: 1e-4\nfolder: runs\n")
    config = load_config(Outer, path, ["inner.rank=4", "flag=true", "inner.names=[a, b]", "size=big"])
    assert config == Outer("a", Inner(4, 1e-4, ("a", "b")), folder=Path("runs"), size="big", flag=True)
    save_config(config, tmp_path / "out" / "resolved.yaml")
    assert load_config(Outer, tmp_path / "out" / "resolved.yaml") == config
    assert as_dict(config)["folder"] == "runs"
    assert load_config(Outer, None, ["model=a", "folder=null"]) == Outer("a")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("model: a\nmodle: b\n", [], r"c.yaml: unknown key 'modle'; did you mean model"),
        ("model: a\ninner: {rnk: 1}\n", [], r"c.yaml: unknown key 'inner.rnk'; did you mean rank\?"),
        ("model: a\n", ["inner.rnk=1"], r"override 'inner.rnk=1': unknown key 'inner.rnk'"),
        ("model: a\n", ["inner.rank.deep=1"], r"inner.rank is .*expected int"),
        ("model: a\n", ["rank"], r"override 'rank': write it as key=value"),
        ("model: a\n", ["inner.rank=1.5"], r"inner.rank is 1.5; expected int"),
        ("model: a\n", ["inner.rank=true"], r"inner.rank is True; expected int"),
        ("model: a\n", ["inner.rate=fast"], r"inner.rate is 'fast'; expected float"),
        ("model: a\n", ["flag=1"], r"flag is 1; expected bool"),
        ("model: a\n", ["kind=step"], r"kind is 'step'; allowed: cosine, linear"),
        ("model: a\n", ["pair=[1]"], r"pair has 1 values; expected 2"),
        ("model: a\n", ["pair=[a, 1]"], r"pair\[0\] is 'a'; expected int"),
        ("model: a\n", ["inner=3"], r"inner is 3; expected Inner"),
        ("model: a\n", ["size=[1]"], r"size is \[1\]; expected int or str"),
        ("model: ''\n", [], r"model is empty"),
        ("{}\n", [], r"c.yaml: no value for model"),
        ("- 1\n", [], r"c.yaml: expected `key: value` lines, found list"),
        ("a: [\n", [], r"c.yaml: not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, write(tmp_path / "c.yaml", text), overrides)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none.yaml: no such config file"):
        load_config(Outer, tmp_path / "none.yaml")


def test_a_file_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base" / "whole.yaml", "model: a\ninner:\n  rank: 8\n  rate: 1e-4\n  names: [a, b]\n")
    middle = write(tmp_path / "middle.yaml", "extends: base/whole.yaml\ninner: {rank: 4}\n")
    last = write(tmp_path / "last.yaml", "extends: middle.yaml\ninner: {names: [c]}\nflag: true\n")
    config = load_config(Outer, last, ["inner.rate=1"])
    assert config == Outer("a", Inner(4, 1.0, ("c",)), flag=True)
    assert "extends" not in as_dict(config)
    write(middle, "extends: last.yaml\n")
    with pytest.raises(ConfigError, match=r"middle\.yaml: extends comes back|last\.yaml: extends comes back"):
        load_config(Outer, last)
    write(last, "extends: 3\n")
    with pytest.raises(ConfigError, match=r"extends is 3; expected the name"):
        load_config(Outer, last)
    write(last, "extends: none.yaml\n")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such config file"):
        load_config(Outer, last)
