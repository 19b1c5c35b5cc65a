"""Dual encoders of transformers as embedders: CLIP, SigLIP, SigLIP 2 in tiny sizes, and EVA's remote code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from comem.io.images import ImageError
from comem.retrieval.dual_encoder import CONSENT
from comem.retrieval.embedder import EmbedderError, is_dual_encoder, load_embedder
from comem.types import ImageRef

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = "<pad> <eos> <unk> a red blue star field".split()


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made: Any = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 1)])
    named = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **named).save_pretrained(folder)


def save(kind: str, folder: Path) -> Path:
    """A tiny model of a kind, with its processors."""
    import transformers as t

    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 8, "projection_size": 16}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    vision = {**SMALL, "image_size": 16, "patch_size": 8}
    if kind == "siglip2":
        vision = {**SMALL, "num_patches": 4, "patch_size": 8}
        model: Any = t.Siglip2Model(t.Siglip2Config(text_config=text, vision_config=vision))
        images: Any = t.Siglip2ImageProcessor(patch_size=8, max_num_patches=4)
    elif kind == "siglip":
        model = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))
        images = t.SiglipImageProcessor(size={"height": 16, "width": 16})
    else:
        model = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        images = t.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    tokenizer(folder)
    return folder


@pytest.fixture(scope="module", params=["clip", "siglip", "siglip2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp(request.param))


def pictures(count: int = 3) -> list[Image.Image]:
    return [
        Image.fromarray(np.random.default_rng(at).integers(0, 256, (20, 26, 3), np.uint8))
        for at in range(count)
    ]


def test_vectors_are_transformers_own(folder: Path) -> None:
    """As transformers makes them: the processor's inputs, texts padded as in training, of length 1."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    embedder = load_embedder(str(folder), "cpu")
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        images = model.get_image_features(
            **AutoImageProcessor.from_pretrained(folder)(images=pictures(), return_tensors="pt")
        )
        padding = "max_length" if model.config.model_type != "clip" else True
        inputs = AutoTokenizer.from_pretrained(folder)(
            ["a red star", "blue"], padding=padding, truncation=True, max_length=8, return_tensors="pt"
        )
        if model.config.model_type != "clip":
            inputs.pop("attention_mask")
        inputs.pop("token_type_ids", None)
        texts = model.get_text_features(**inputs)
    for mine, theirs in (
        (embedder.embed_images(pictures()), images),
        (embedder.embed_texts(["a red star", "blue"]), texts),
    ):
        wanted = torch.nn.functional.normalize(getattr(theirs, "pooler_output", theirs), dim=-1).numpy()
        assert mine.dtype == np.float32 and mine == pytest.approx(wanted, abs=1e-5)
    assert embedder.dimension == wanted.shape[1]


def test_batches_and_prepared_images_change_nothing(folder: Path) -> None:
    embedder = load_embedder(str(folder), "cpu")
    vectors = embedder.embed_images(pictures())
    assert embedder.embed_images(
        [embedder.prepare(each) for each in pictures()], batch_size=2
    ) == pytest.approx(vectors, abs=1e-5)
    long = "red " * 50
    texts = embedder.embed_texts(["a star", "", long])
    assert texts.shape == (3, embedder.dimension) and embedder.embed_images([]).shape == (
        0,
        embedder.dimension,
    )
    assert embedder.embed_texts(["a star"])[0] == pytest.approx(texts[0], abs=1e-5)
    with pytest.raises(ImageError, match=r"gone\.png"):
        embedder.embed_images([ImageRef(path="gone.png")])


def test_an_index_is_made_and_searched(tmp_path: Path) -> None:
    """Built, found again by its manifest's name, and refused to another model's queries."""
    from comem.cli import main

    folder = save("siglip2", tmp_path / "siglip2")

    for at, each in enumerate(pictures()):
        each.save(tmp_path / f"{at}.png")
    rows = [{"id": str(at), "text": "a star", "image": f"{at}.png"} for at in range(3)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build = [
        "index",
        "build",
        "--corpus",
        tmp_path / "items.jsonl",
        "--embedder",
        folder,
        "--output",
        tmp_path / "i",
    ]
    assert main([str(word) for word in build]) == 0
    search = ["index", "search", "--index", tmp_path / "i", "--image", tmp_path / "1.png", "-k", "1"]
    assert main([str(word) for word in search]) == 0
    assert main([str(word) for word in (*search, "--embedder", "toy")]) == 2


def test_names_of_the_hub_and_of_folders(tmp_path: Path) -> None:
    for name in ("BAAI/EVA-CLIP-8B", "google/siglip2-base-patch16-224"):
        assert is_dual_encoder(name)
    for name in ("toy", "ViT-L-14:openai", "hf-hub:timm/x", "local-dir:a/b", "./a/b", "/a/b", str(tmp_path)):
        assert not is_dual_encoder(name)


def test_what_cannot_load_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(EmbedderError, match="cannot load 'BAAI/EVA-CLIP-8B' as an embedder"):
        load_embedder("BAAI/EVA-CLIP-8B", "cpu")
    made = save("clip", tmp_path / "clip")
    torch_file = tmp_path / "pickled"
    shutil.copytree(made, torch_file)
    (torch_file / "model.safetensors").rename(torch_file / "pytorch_model.bin")
    with pytest.raises(EmbedderError, match="pickled weights are not opened"):
        load_embedder(str(torch_file), "cpu")
    from safetensors.torch import load_file, save_file

    weights = load_file(made / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    with pytest.raises(EmbedderError, match=r"1 weights are missing, visual_projection\.weight first"):
        load_embedder(str(made), "cpu")


EVA = """
import torch
from transformers import CLIPConfig, PreTrainedModel

class EvaCLIPConfig(CLIPConfig):
    pass

class EvaCLIPModel(PreTrainedModel):
    config_class = EvaCLIPConfig
    def __init__(self, config):
        super().__init__(config)
        self.look = torch.nn.Linear(3, 4)
        self.read = torch.nn.Embedding(64, 4)
        self.post_init()
    def encode_image(self, image):
        return self.look(image.mean((2, 3)))
    def encode_text(self, ids):
        return self.read(ids).mean(1)
"""


def test_evas_code_runs_only_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository in EVA-CLIP's form: classes of its own under the model type of CLIP."""
    from safetensors.torch import save_file

    made = save("clip", tmp_path / "eva_clip")
    config = json.loads((made / "config.json").read_text())
    config |= {"architectures": ["EvaCLIPModel"], "auto_map": {
        "AutoConfig": "modeling_evaclip.EvaCLIPConfig", "AutoModel": "modeling_evaclip.EvaCLIPModel",
    }}  # fmt: skip
    (made / "config.json").write_text(json.dumps(config))
    (made / "modeling_evaclip.py").write_text(EVA)
    torch.manual_seed(1)
    weights = {
        "look.weight": torch.randn(4, 3),
        "look.bias": torch.randn(4),
        "read.weight": torch.randn(64, 4),
    }
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        EmbedderError, match=f"EvaCLIPModel, whose code comes with its repository.*{CONSENT}="
    ):
        load_embedder(str(made), "cpu")
    monkeypatch.setenv(CONSENT, "another/repository")
    with pytest.raises(EmbedderError, match="would run here"):
        load_embedder(str(made), "cpu")
    monkeypatch.setenv(CONSENT, str(made))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    embedder = load_embedder(str(made), "cpu")
    vectors = embedder.embed_images(pictures())
    assert vectors.shape == (3, 4) and np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert embedder.embed_texts(["a red star"]).shape == (1, 4)
