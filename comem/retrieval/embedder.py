"""Images and texts as vectors on the unit sphere, by any open_clip model or dual encoder of transformers."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import comem
from comem.io.files import valid
from comem.io.images import pixels
from comem.registry import nearest
from comem.retrieval.embedder_base import MAX_CHARS, PRECISIONS, Embedder, EmbedderError, ImageLike
from comem.retrieval.settings import DEFAULT_EMBEDDER

__all__ = [
    "Embedder",
    "EmbedderError",
    "ImageLike",
    "OpenClipEmbedder",
    "check_folder",
    "load_embedder",
    "unusable",
]

logger = logging.getLogger(__name__)

TOY_CLIP = Path(comem.__file__).parent / "toy" / "weights" / "clip"
CONFIG_NAME, WEIGHTS_NAME = "open_clip_config.json", "open_clip_model.safetensors"


class OpenClipEmbedder:
    """An open_clip model with its preprocessing and tokenizer.

    Args:
        name: what the user asked for; kept for messages and manifests.
        model: the open_clip model, in evaluation mode.
        preprocess: Pillow image → float tensor (3, height, width).
        tokenizer: list of texts → int tensor (n, l).
        device: where the model is.
        precision: "fp32", or "bf16"/"fp16" for half precision where that is safe (autocast). It changes
            the vectors in the third digit, so the fingerprint is the same: a base that was embedded on a
            GPU in half precision answers to a laptop in full.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        preprocess: Any,
        tokenizer: Any,
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        if precision not in PRECISIONS:
            raise EmbedderError(f"precision {precision!r}: choose of {', '.join(PRECISIONS)}")
        self.name, self.device, self.precision = name, device, precision
        self.model = model.eval().to(device)
        self._preprocess, self._tokenizer = preprocess, tokenizer
        self.dimension = int(self.embed_texts([""]).shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and of the preprocessing."""
        digest = hashlib.sha256(repr(self._preprocess).encode())
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def prepare(self, image: ImageLike) -> Any:
        """What `embed_images` takes as well: the image as a tensor; threads make it ahead of the model."""
        return self._preprocess(pixels(image))

    def embed_images(self, images: Sequence[Any], batch_size: int = 64) -> np.ndarray:
        """Embeds images (or what `prepare` made of them).

        Returns:
            float32 (n, d), each row of length 1.

        Raises:
            ImageError: for an image that cannot be opened; it names the file.
        """
        import torch

        def run(batch: Sequence[ImageLike]) -> Any:
            made = [each if isinstance(each, torch.Tensor) else self.prepare(each) for each in batch]
            inputs = torch.stack(made)  # (b, 3, h, w)
            return self.model.encode_image(inputs.to(self.device), normalize=True)  # (b, d)

        return self._embed(run, images, batch_size)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Embeds texts, cut to the model's context length.

        Returns:
            float32 (n, d), each row of length 1.
        """

        def run(batch: Sequence[str]) -> Any:
            plain = [valid(text)[:MAX_CHARS] for text in batch]
            return self.model.encode_text(self._tokenizer(plain).to(self.device), normalize=True)  # (b, d)

        return self._embed(run, texts, batch_size)

    def _embed(self, run: Any, inputs: Sequence[Any], batch_size: int) -> np.ndarray:
        import torch

        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        kind = self.device.partition(":")[0]
        with torch.inference_mode(), torch.autocast(kind, half, enabled=half is not None):
            rows = [run(batch).float().cpu().numpy() for batch in _batches(inputs, batch_size)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dimension), dtype=np.float32)


def is_dual_encoder(name: str) -> bool:
    """Whether a name is a folder of transformers, or a hub repository (which open_clip's names are not)."""
    folder = Path(name)
    if folder.is_dir():
        return (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file()
    return "/" in name and ":" not in name and not name.startswith((".", "/", "~"))


def load_embedder(
    name: str = DEFAULT_EMBEDDER, device: str | None = None, precision: str = "fp32"
) -> Embedder:
    """Loads an embedder.

    Args:
        name: "toy" for the embedded one; a folder with `open_clip_config.json` and
            `open_clip_model.safetensors`; or `architecture:pretrained` as open_clip names them,
            for example "ViT-L-14:openai" (downloaded on first use); or a folder or hub repository of
            transformers, for example "google/siglip2-base-patch16-224" (`comem.retrieval.dual_encoder`).
        device: torch device; CUDA when there is one by default.
        precision: fp32, bf16 or fp16.

    Raises:
        EmbedderError: for an unknown name, or a folder that is no complete open_clip model.
    """
    import open_clip
    import torch

    from comem.io.hub import hub_or_cache

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if is_dual_encoder(name):
        from comem.retrieval.dual_encoder import load_dual_encoder

        return load_dual_encoder(name, device, precision)
    folder = TOY_CLIP if name == "toy" else Path(name.removeprefix("local-dir:"))
    if name == "toy" or folder.is_dir() or name.startswith("local-dir:"):
        where = _Weights(f"local-dir:{folder}", folder)
    else:
        where = _on_hub(name, open_clip)
    try:
        if where.folder is not None:
            check_folder(where.folder)
            model, _, preprocess = open_clip.create_model_and_transforms(
                f"local-dir:{where.folder}", device=device
            )
        else:
            model, _, preprocess = open_clip.create_model_and_transforms(
                where.source, pretrained=str(where.file), device=device, **where.images
            )
        with nullcontext() if where.folder is not None else hub_or_cache(name):
            tokenizer = open_clip.get_tokenizer(where.source)
        embedder = OpenClipEmbedder(name, model, preprocess, tokenizer, device, precision)
    except (torch.OutOfMemoryError, EmbedderError):
        raise
    except Exception as error:  # open_clip's, of all kinds
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EmbedderError(f"open_clip cannot load {name!r} ({said}); {_REMEDY}") from error
    return embedder


@dataclass(frozen=True)
class _Weights:
    """Where open_clip is to read: a folder, or an architecture of its own with one file of weights.

    Attributes:
        source: the model by open_clip's name, whose tokenizer it is.
        folder: with config and weights.
        file: safetensors.
        images: how images are prepared.
    """

    source: str
    folder: Path | None = None
    file: Path | None = None
    images: Mapping[str, Any] = field(default_factory=dict)


_REMEDY = (
    f"give a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, or 'toy', which is embedded and needs no download"
)


def _on_hub(name: str, open_clip: Any) -> _Weights:
    """The safetensors of a model that open_clip knows, downloaded; its own ways fall back to pickles."""
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        _downloaded(name, repository, CONFIG_NAME)
        return _Weights(name, _downloaded(name, repository, WEIGHTS_NAME).parent)
    architecture, tag = _known_names(name, open_clip)
    about = open_clip.get_pretrained_cfg(architecture, tag)
    repository, _, file = about.get("hf_hub", "").rpartition("/")
    if not repository:
        raise EmbedderError(
            f"embedder {name!r}: its weights are published as a pickle only, which can run code when opened"
            f" and is never loaded; {_REMEDY}"
        )
    path = _downloaded(
        name, repository, str(Path(file).with_suffix(".safetensors")) if file else WEIGHTS_NAME
    )
    keys = {"mean": "image_mean", "std": "image_std", "interpolation": "image_interpolation",
            "resize_mode": "image_resize_mode"}  # fmt: skip
    images = {ours: about[theirs] for theirs, ours in keys.items() if about.get(theirs) is not None}
    return _Weights(architecture, None, path, images)


def _downloaded(name: str, repository: str, file: str) -> Path:
    """A file of a hub repository, from the cache where it is there."""
    from huggingface_hub import hf_hub_download

    from comem.io.hub import hub_or_cache

    try:
        with hub_or_cache(repository):
            return Path(hf_hub_download(repository, file))
    except Exception as error:  # of the hub's client, whichever it is
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EmbedderError(
            f"embedder {name!r}: {file} of {repository} is not to be had ({said}); pickled weights are not"
            f" taken in its place; {_REMEDY}"
        ) from error


def check_folder(folder: Path) -> None:
    """Refuses a folder that open_clip would load only in part (it then keeps random weights silently).

    Raises:
        EmbedderError: naming what is missing.
    """
    missing = [part for part in (CONFIG_NAME, WEIGHTS_NAME) if not (folder / part).is_file()]
    if missing:
        raise EmbedderError(
            f"{folder}: not an open_clip model folder, {' and '.join(missing)} missing; pickled weights"
            " (.bin, .pt) are not opened: convert them with safetensors first"
        )
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EmbedderError(f"{folder / CONFIG_NAME}: not JSON ({error})") from error
    if "model_cfg" not in config:
        raise EmbedderError(f"{folder / CONFIG_NAME}: no model_cfg in it; is it an open_clip config?")


def _known_names(name: str, open_clip: Any) -> tuple[str, str]:
    """(`architecture`, `pretrained`) as open_clip names them, checked before anything is downloaded."""
    architecture, _, pretrained = name.partition(":")
    if architecture not in open_clip.list_models():
        raise EmbedderError(
            f"unknown embedder {name!r}: no such folder, and no open_clip architecture {architecture!r};"
            f" {nearest(architecture, open_clip.list_models())} (or 'toy', or a folder)"
        )
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained not in known:
        raise EmbedderError(
            f"embedder {name!r}: unknown pretrained tag {pretrained!r}; write {architecture}:TAG with a TAG"
            f" of {', '.join(known) or 'none (open_clip publishes no weights for it)'}"
        )
    return architecture, pretrained


_UNIT = 0.01  # by so much a vector's length may miss 1: half precision rounds


def unusable(vectors: np.ndarray) -> dict[int, str]:
    """What is wrong with rows of `(n, d)` vectors, by row: numbers that are none, a length that is not 1.

    One NaN among them would be in every search's result, and a long vector first in each.
    """
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT))
    finite = np.isfinite(vectors[wrong]).all(axis=1)
    none = "its vector has NaN or infinity in it"
    return {
        int(row): f"its vector has the length {lengths[row]:.4g} instead of 1" if whole else none
        for row, whole in zip(wrong, finite, strict=True)
    }


def _batches(inputs: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    starts: Iterable[int] = range(0, len(inputs), size)
    return (inputs[start : start + size] for start in starts)
