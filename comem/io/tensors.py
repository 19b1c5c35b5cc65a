"""Safetensors files: read with errors that say what to do, written atomically."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from comem.io.files import read_json, write_atomic

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """A safetensors file, open; tensors are read when asked for.

    Raises:
        ValueError: missing, half-written, or not safetensors; names the file and the remedy.
    """
    path = Path(path)
    if path.suffix in _PICKLED:
        raise ValueError(
            f"{path}: a pickled file, which can run code when opened, is never loaded: convert it to "
            "safetensors (safetensors.torch.save_file(torch.load(path, weights_only=True), ...))"
        )
    if not path.is_file():
        raise ValueError(f"{path}: no such file; check the path")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a complete safetensors file ({error}); it was cut short or is of another format: "
            "delete it and write or copy it again"
        ) from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a file; errors as `open_tensors`."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def read_metadata(path: str | Path) -> dict[str, str]:
    """A file's metadata; errors as `open_tensors`."""
    with open_tensors(path) as file:
        return dict(file.metadata() or {})


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a whole safetensors file, or leave what was there.

    Raises:
        StorageError: no space is left.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(plain, metadata=dict(metadata or {})))


def tensor_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards that its index names.

    Raises:
        ValueError: no weights, or only pickled ones.
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; check the path")
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLED)
    if pickled:
        raise ValueError(f"{folder}: only pickled weights ({pickled[0]}): convert them to safetensors")
    raise ValueError(f"{folder}: has no model.safetensors (nor shards with an index): not a model folder")


def tensor_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors, without reading them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with open_tensors(path) as file:
            shapes.update({n: tuple(file.get_slice(n).get_shape()) for n in file.keys()})  # noqa: SIM118
    return shapes


def stream_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """All tensors one by one, so that a large checkpoint is never held twice."""
    for path in files:
        with open_tensors(path) as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
