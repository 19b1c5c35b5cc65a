"""Encoders, banks and memories on the Hugging Face hub: up with a model card, down to what was pushed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from comem.bank.format import MANIFEST as BANK
from comem.io.files import read_json
from comem.memory.encoder import CONFIG as ENCODER_CONFIG
from comem.store.table import FILE, LOCK, MemoryFolderError, Table

if TYPE_CHECKING:
    from comem.memory.bank import Bank
    from comem.memory.encoder import MemoryEncoder
    from comem.store.memory import Memory


@dataclass(frozen=True)
class Card:
    """What a model card says that the files do not.

    Attributes:
        licence: as the hub names it ("apache-2.0"). What you push is under it: an encoder also under that of
            its base, a memory also under that of its texts and images.
        base: the model that it was made on or for, as the hub names it.
        scores: by name, as they were measured.
        about: a paragraph of your own.
    """

    licence: str
    base: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    about: str = ""


def push_to_hub(
    folder: str | Path, repo: str, card: Card, *, private: bool = True, token: str | None = None
) -> str:
    """Push an encoder's folder, a bank or a memory, with a generated card; where it lies.

    Example:
        >>> push_to_hub("models/encoder", "ann/encoder", Card("apache-2.0", "Qwen/Qwen2.5-VL-7B-Instruct"))

    Args:
        folder: an encoder, a bank (folder or .safetensors), or a memory.
        repo: OWNER/NAME; made when missing.
        card: licence, base and scores.
        private: of a repository that is made.
        token: of the hub; by default the one that `hf auth login` keeps.

    Raises:
        MemoryFolderError: the folder is none of these.
    """
    from huggingface_hub import HfApi

    source = Path(folder)
    kind, facts = describe(source)
    api = HfApi(token=token)
    api.create_repo(repo, private=private, exist_ok=True)
    text = card_text(kind, repo, card, facts)
    if source.is_file():
        api.upload_file(path_or_fileobj=source, path_in_repo=source.name, repo_id=repo)
    else:
        ignored = [LOCK, ".*", "README.md"]
        api.upload_folder(folder_path=source, repo_id=repo, ignore_patterns=ignored)
    api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo)
    return f"{api.endpoint}/{repo}"


def from_pretrained(
    repo: str, folder: str | Path | None = None, *, revision: str | None = None, token: str | None = None,
    **options: Any,
) -> MemoryEncoder | Bank | Memory:  # fmt: skip
    """Open what was pushed: an encoder, a bank, or a memory.

    Example:
        >>> encoder = from_pretrained("ann/encoder", backbone=backbone)
        >>> memory = from_pretrained("ann/trip", "trip")  # a memory is copied to a folder of its own

    Args:
        repo: OWNER/NAME.
        folder: where a memory goes, which can be written to; others stay in the hub's cache.
        revision: a branch, tag or commit.
        token: of the hub.
        options: of `comem.load_encoder`, `comem.open_bank` or `comem.Memory`.

    Raises:
        MemoryFolderError: the repository holds none of these, or a memory was given no folder.
    """
    from huggingface_hub import snapshot_download

    place = Path(snapshot_download(repo, revision=revision, token=token))
    banks = sorted(place.glob("*.safetensors"))
    kind, _ = describe(banks[0] if len(banks) == 1 and not (place / ENCODER_CONFIG).exists() else place)
    if kind == "memory encoder":
        from comem.memory.encoder import load_encoder

        return load_encoder(place, **options)
    if kind == "memory bank":
        from comem.bank.serve import open_bank

        return open_bank(banks[0] if banks else place, **options)
    from comem.store.memory import Memory

    if folder is None:
        raise MemoryFolderError(
            f"{repo} is a memory, which can be written to: say in which folder it is to lie"
        )
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise MemoryFolderError(f"{target}: there is something already; give another folder")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(place / FILE, target / FILE)
    return Memory(target, **options)


def describe(path: Path) -> tuple[str, dict[str, str]]:
    """What lies at a path: memory encoder, memory bank or memory, and what it says of itself.

    Raises:
        MemoryFolderError: none of these.
    """
    if (path / ENCODER_CONFIG).is_file():
        about = read_json(path / ENCODER_CONFIG)
        return "memory encoder", {
            "kind": about.get("encoder", "qformer"),
            "fingerprint": about["fingerprint"],
        }
    if (path / FILE).is_file():
        table = Table(path, must_exist=True)
        try:
            facts = table.about()
            names = ("backbone", "encoder", "embedder", "encoder_fingerprint")
            return "memory", {"items": f"{len(table):,}", **{n: facts[n] for n in names if n in facts}}
        finally:
            table.close()
    if path.suffix == ".safetensors" and path.is_file():
        from comem.memory.bank import MemoryBank

        bank = MemoryBank.load(path)
        return "memory bank", {"items": f"{len(bank):,}", "fingerprint": bank.fingerprint}
    if (path / BANK).is_file():
        from comem.bank.serve import open_bank

        opened = open_bank(path)
        return "memory bank", {"fingerprint": opened.fingerprint}
    raise MemoryFolderError(f"{path}: no memory encoder, bank or memory; nothing is pushed")


def card_text(kind: str, repo: str, card: Card, facts: Mapping[str, str]) -> str:
    """The model card: facts for the hub, and for people."""
    head: dict[str, Any] = {"license": card.licence, "library_name": "comem", "tags": ["comem", kind]}
    if card.base:
        head["base_model"] = card.base
    if kind == "memory encoder":
        opened = f'encoder = from_pretrained("{repo}", backbone=backbone)'
    else:
        name, place = ("bank", "") if kind == "memory bank" else ("memory", f', "{repo.rpartition("/")[2]}"')
        opened = f'{name} = from_pretrained("{repo}"{place})'
    lines = ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += [f"# {repo.rpartition('/')[2]}", "", f"A {kind} of CoMEM (arXiv 2505.17670).", ""]
    lines += [card.about, ""] * bool(card.about)
    lines += ["| fact | value |", "|---|---|"]
    known = {**facts, "licence": card.licence, "base": card.base}
    lines += [f"| {name} | {_cell(value)} |" for name, value in known.items() if value]
    if card.scores:
        lines += ["", "| score | value |", "|---|---|"]
        lines += [f"| {_cell(name)} | {value:g} |" for name, value in card.scores.items()]
    else:
        lines += ["", "No scores were given: what it is worth has not been said."]
    lines += ["", "```python", "from comem.store.hub import from_pretrained", "", opened, "```", ""]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
