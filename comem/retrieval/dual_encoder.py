"""Images and texts as vectors by a dual encoder of transformers: CLIP, SigLIP, SigLIP 2, EVA-CLIP."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from comem.io.files import read_json, valid
from comem.io.hub import hub_or_cache
from comem.io.images import pixels
from comem.retrieval.embedder_base import MAX_CHARS, PRECISIONS, EmbedderError, ImageLike

#: A repository whose own code may run, by its name or folder: consent that an index's manifest cannot give.
CONSENT = "COMEM_REMOTE_EMBEDDER"
#: EVA-CLIP brings no processor of its own: BAAI names this one.
_PROCESSORS = {"EvaCLIPModel": "openai/clip-vit-large-patch14"}
#: SigLIP was trained on texts that are padded to the end.
_PADDED = ("siglip", "siglip2")


class DualEncoder:
    """A dual encoder with its processors; as `comem.retrieval.embedder.Embedder`.

    Args:
        name: what the user asked for; kept for messages and manifests.
        model: with `get_image_features` and `get_text_features`, or EVA's `encode_image` and `encode_text`.
        images: the image processor.
        tokenizer: the text's.
        device: where the model is.
        precision: "fp32", or "bf16"/"fp16" (autocast).
    """

    def __init__(
        self, name: str, model: Any, images: Any, tokenizer: Any, device: str = "cpu", precision: str = "fp32"
    ) -> None:
        if precision not in PRECISIONS:
            raise EmbedderError(f"precision {precision!r}: choose of {', '.join(PRECISIONS)}")
        self.name, self.device, self.precision = name, device, precision
        self.model = model.eval().to(device)
        self._images, self._tokenizer = images, tokenizer
        text = getattr(model.config, "text_config", model.config)
        self._length = int(getattr(text, "max_position_embeddings", 77))
        self._padding = "max_length" if model.config.model_type in _PADDED else True
        self.dimension = int(self.embed_texts([""]).shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and of the preprocessing."""
        digest = hashlib.sha256(repr(sorted(self._images.to_dict().items(), key=str)).encode())
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def prepare(self, image: ImageLike) -> Mapping[str, Any]:
        """What `embed_images` takes as well: the image as tensors, made ahead of the model."""
        made: Mapping[str, Any] = self._images(images=[pixels(image)], return_tensors="pt")
        return dict(made)

    def embed_images(self, images: Sequence[Any], batch_size: int = 64) -> np.ndarray:
        """Embeds images (or what `prepare` made of them).

        Returns:
            float32 (n, d), each row of length 1.

        Raises:
            ImageError: for an image that cannot be opened; it names the file.
        """
        import torch

        def run(batch: Sequence[Any]) -> Any:
            made = [each if isinstance(each, Mapping) else self.prepare(each) for each in batch]
            inputs = {key: torch.cat([each[key] for each in made]).to(self.device) for key in made[0]}
            if hasattr(self.model, "get_image_features"):
                return self.model.get_image_features(**inputs)
            return self.model.encode_image(inputs["pixel_values"])

        return self._embed(run, images, batch_size)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Embeds texts, cut to the model's context length.

        Returns:
            float32 (n, d), each row of length 1.
        """

        def run(batch: Sequence[str]) -> Any:
            inputs = self._tokenizer(
                [valid(text)[:MAX_CHARS] for text in batch], padding=self._padding, truncation=True,
                max_length=self._length, return_tensors="pt",
            ).to(self.device)  # fmt: skip
            if not hasattr(self.model, "get_text_features"):
                return self.model.encode_text(inputs["input_ids"])
            inputs = {key: value for key, value in inputs.items() if key != "token_type_ids"}
            if self._padding == "max_length":
                inputs.pop("attention_mask", None)  # padding was attended to when it was trained
            return self.model.get_text_features(**inputs)

        return self._embed(run, texts, batch_size)

    def _embed(self, run: Any, inputs: Sequence[Any], batch_size: int) -> np.ndarray:
        import torch

        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        kind, rows = self.device.partition(":")[0], []
        with torch.inference_mode(), torch.autocast(kind, half, enabled=half is not None):
            for start in range(0, len(inputs), batch_size):
                found = run(inputs[start : start + batch_size])
                vectors = getattr(found, "pooler_output", found).float()
                rows.append(torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.dimension), dtype=np.float32)


def load_dual_encoder(name: str, device: str, precision: str = "fp32") -> DualEncoder:
    """Load a dual encoder of transformers, by its own classes.

    Code of a repository runs only where COMEM_REMOTE_EMBEDDER names that repository.

    Args:
        name: a folder, or a hub repository, such as google/siglip2-base-patch16-224 or BAAI/EVA-CLIP-8B.
        device: torch device.
        precision: fp32, bf16 or fp16.

    Raises:
        EmbedderError: code that was not allowed, pickled or missing weights, a model of another kind.
    """
    import transformers
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        with hub_or_cache(name):
            config = _config(name)
            code = _allowed(name, config)
            model, found = AutoModel.from_pretrained(
                name, trust_remote_code=code, use_safetensors=True, output_loading_info=True
            )
        kinds = tuple(config.get("architectures") or ())
        source = next((_PROCESSORS[kind] for kind in kinds if kind in _PROCESSORS), name)
        source = name if _has_processor(name) else source
        with hub_or_cache(source):
            images = AutoImageProcessor.from_pretrained(source)
            tokenizer = AutoTokenizer.from_pretrained(source)
    except EmbedderError:
        raise
    except Exception as error:  # transformers', of all kinds
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EmbedderError(
            f"transformers {transformers.__version__} cannot load {name!r} as an embedder ({said}); give a "
            "folder or repository of CLIP, SigLIP or SigLIP 2 with safetensors and processor files (pickled "
            "weights are not opened: convert them with safetensors first), or 'toy'"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise EmbedderError(f"{name}: {len(missing)} weights are missing, {missing[0]} first; fetch it again")
    if not (hasattr(model, "get_image_features") or hasattr(model, "encode_image")):
        raise EmbedderError(f"{name}: a {type(model).__name__} gives no vectors of both images and texts")
    return DualEncoder(name, model, images, tokenizer, device, precision)


def _config(name: str) -> Mapping[str, Any]:
    """The model's config.json, as it stands: transformers would pass over foreign classes in it."""
    from huggingface_hub import hf_hub_download

    path = Path(name) / "config.json" if Path(name).is_dir() else Path(hf_hub_download(name, "config.json"))
    config: Mapping[str, Any] = read_json(path)
    return config


def _allowed(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the repository's own code is to run.

    Raises:
        EmbedderError: it is needed and was not allowed.
    """
    if "AutoModel" not in config.get("auto_map", {}):
        return False
    if os.environ.get(CONSENT) == name:
        return True
    kind = ", ".join(config.get("architectures") or ["a class of its own"])
    raise EmbedderError(
        f"{name} is {kind}, whose code comes with its repository and would run here. Look at it, and allow "
        f"it by the environment variable {CONSENT}={name}; or embed elsewhere and import the vectors "
        "(comem index import)"
    )


def _has_processor(name: str) -> bool:
    """Whether a folder or repository brings its image processor."""
    from huggingface_hub import hf_hub_download

    if Path(name).is_dir():
        return (Path(name) / "preprocessor_config.json").is_file()
    try:
        hf_hub_download(name, "preprocessor_config.json")
    except Exception:  # of the hub's client, whichever it is
        return False
    return True
