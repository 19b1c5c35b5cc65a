"""Folders of strangers: nothing is unpickled, whatever lies there, and the message names the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import load_backbone
from comem.backbones.specs import TOY_FOLDER, BackboneError, load_model, load_processor
from comem.engine.engine import fast
from comem.memory.encoder import load_encoder, toy_memory
from comem.retrieval.embedder import TOY_CLIP, EmbedderError, load_embedder
from comem.types import Message

QUESTIONS = [[Message("user", ("one?",))], [Message("user", ("and a longer one?",))]]


@pytest.fixture()
def folder(tiny_backbone_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_backbone_folder, tmp_path / "model"))


@pytest.fixture()
def trap(tmp_path: Path) -> Any:
    """Writes a file that leaves a trace when it is unpickled; afterwards there must be none."""
    trace = tmp_path / "trace"

    def write(path: Path) -> None:
        path.write_bytes(b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.")

    yield write
    assert not trace.exists()


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("decoy", ["adapter_model.safetensors", "other.safetensors", None])
@pytest.mark.parametrize("pickled", ["pytorch_model.bin", "model.bin"])
def test_no_decoy_makes_a_pickle_be_read(folder: Path, trap: Any, decoy: str | None, pickled: str) -> None:
    weights = folder / "model.safetensors"
    if decoy:
        shutil.copy(weights, folder / decoy)
    weights.unlink()
    trap(folder / pickled)
    with pytest.raises(BackboneError, match="only pickled weights"):
        load_backbone(folder, device="cpu")


def test_an_encoders_base_is_not_unpickled(tmp_path: Path, trap: Any) -> None:
    shutil.copytree(toy_memory(), tmp_path / "memory")
    shutil.copytree(TOY_FOLDER, tmp_path / "backbone")
    weights = tmp_path / "backbone" / "model.safetensors"
    weights.rename(weights.with_name("adapter_model.safetensors"))
    trap(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match="only pickled weights"):
        load_encoder(tmp_path / "memory")


def test_an_index_cannot_name_a_pickle(folder: Path, trap: Any) -> None:
    (folder / "model.safetensors").unlink()
    trap(folder / "shard.bin")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "shard.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match="names 'shard.bin', which is no safetensors"):
        load_model(folder, "AutoModelForImageTextToText")
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(BackboneError, match="no index of weights"):
        load_model(folder, "AutoModelForImageTextToText")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"num_return_sequences": 3}, "cannot be used .*num_return_sequences"),
        ({"compile_config": {}}, "cannot be used"), ({"max_new_tokens": "5"}, "repair or remove"),
        ({"cache_implementation": "none"}, "cannot be used .*Invalid `cache"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>', no number"),
        ({"bos_token_id": [1, "2"]}, "bos_token_id is"),
    ],
)  # fmt: skip
def test_a_generation_config_that_is_none_is_named(folder: Path, asked: dict[str, Any], said: str) -> None:
    (folder / "generation_config.json").write_text(json.dumps(asked))
    with pytest.raises(BackboneError, match=f"generation_config.json.* {said}"):
        load_backbone(folder, device="cpu")


def test_an_adapter_beside_a_model_is_refused(folder: Path, trap: Any) -> None:
    trap(folder / "adapter_model.bin")
    config = {
        "peft_type": "LORA",
        "r": 2,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": str(folder),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="a PEFT adapter lies there"):
        load_backbone(folder, device="cpu")


@pytest.mark.parametrize("pickled", ["open_clip_pytorch_model.bin", "model.pth"])
def test_an_embedders_pickle_is_not_read(tmp_path: Path, trap: Any, pickled: str) -> None:
    folder = Path(shutil.copytree(TOY_CLIP, tmp_path / "clip"))
    trap(folder / pickled)
    assert load_embedder(str(folder)).fingerprint == load_embedder("toy").fingerprint
    (folder / "open_clip_model.safetensors").rename(folder / "x.safetensors")
    for name in (str(folder), f"local-dir:{folder}"):
        with pytest.raises(EmbedderError, match="pickled weights"):
            load_embedder(name)


def test_open_clips_own_ways_to_the_hub_take_no_pickle(
    tmp_path: Path, trap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repositories that hold nothing but a pickle, as open_clip would fall back to."""
    asked: list[str] = []

    def download(repository: str, filename: str, **_: Any) -> str:
        asked.append(filename)
        if filename.endswith(".json"):
            return str(shutil.copy(TOY_CLIP / filename, tmp_path))
        if filename.endswith(".safetensors"):
            raise FileNotFoundError(filename)
        trap(tmp_path / filename)
        return str(tmp_path / filename)

    for module in ("huggingface_hub", "open_clip.pretrained", "open_clip.factory"):
        monkeypatch.setattr(f"{module}.hf_hub_download", download, raising=False)
    for name in ("hf-hub:someone/clip", "ViT-B-32:openai", "ViTamin-S:datacomp1b"):
        with pytest.raises(EmbedderError, match="pickled weights are not taken in its place.*give a folder"):
            load_embedder(name, device="cpu")
    assert all(name.endswith((".json", ".safetensors")) for name in asked)


def test_a_hub_model_that_is_there_is_the_folder_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, name, **__: str(TOY_CLIP / name))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TOY_CLIP}")
    monkeypatch.setattr("open_clip.get_tokenizer", lambda _: tokenizer)
    assert load_embedder("hf-hub:someone/clip", "cpu").name == "hf-hub:someone/clip"


def plain_tokenizer(folder: Path, **special: str | None) -> None:
    """A tokenizer of no family, which brings no special tokens of its own."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config = {name: value for name, value in config.items() if not name.endswith("_token")}
    path.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"} | special))


@pytest.mark.parametrize("special", [{"eos_token": "<|im_end|>"}, {"unk_token": "<|fim_pad|>"}])
def test_a_tokenizer_without_a_pad_token_pads_with_another(folder: Path, special: dict[str, str]) -> None:
    plain_tokenizer(folder, **special)
    loaded = load_backbone(folder, dtype="float32", device="cpu")
    assert loaded.process.tokenizer.pad_token in special.values()
    short = GenerationConfig(max_new_tokens=4)
    alone = [loaded.generate([question], config=short)[0].text for question in QUESTIONS]
    assert [answer.text for answer in loaded.generate(QUESTIONS, config=short)] == alone
    assert [answer.text for answer in fast(loaded).generate(QUESTIONS, config=short)] == alone


def test_a_tokenizer_with_neither_is_told(folder: Path) -> None:
    plain_tokenizer(folder)
    with pytest.raises(BackboneError, match="neither a pad nor an end token"):
        load_processor(folder)


@pytest.mark.parametrize("attn", ["nonsense", "flash", "SDPA", ""])
def test_an_attention_that_is_none(folder: Path, attn: str) -> None:
    with pytest.raises(BackboneError, match=f"attn '{attn}': give one of sdpa, eager"):
        load_backbone(folder, device="cpu", attn=attn)


@pytest.mark.parametrize(
    "template",
    ["{{ messages[0].nothing.at.all }}", "{% for", "{{ raise_exception('no such role') }}", "{{ 1 / 0 }}"],
)
def test_a_template_that_fails_is_told(folder: Path, template: str) -> None:
    for path in folder.glob("chat_template*"):
        path.unlink()
    (folder / "chat_template.jinja").write_text(template)
    loaded = load_backbone(folder, device="cpu")
    with pytest.raises(BackboneError, match="its chat template cannot write a conversation of user"):
        loaded.generate(QUESTIONS[:1])


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json", "config.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{\x00", b'{"version": 7}', b"\xff\xfe"])
def test_files_of_a_folder_that_are_not_what_they_should_be(folder: Path, name: str, content: bytes) -> None:
    if not (folder / name).is_file():
        pytest.skip("this version saves no such file")
    (folder / name).write_bytes(content)
    try:
        load_backbone(folder, device="cpu")  # some files a processor can do without
    except BackboneError as error:
        assert str(folder) in str(error)


ABOUT = "comem_encoder.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": None}, "base is None"),
        ({"base": {"name": "x"}}, "no value for base.hidden_size, base.digest"),
        ({"qformer": {"hidden_size": "128"}}, "qformer.*hidden_size is '128'"),
        ({"qformer": {"hidden_size": 128, "depth": -1}}, "depth=-1: must be at least 1"),
        ({"form": []}, "form is"),
        ({"form": {"max_chars": 0}}, "max_chars=0"),
        ({"lora": {"rank": 0}}, "rank=0"),
        ({"lora": {"rank": 16, "alpha": 32, "use_rslora": True}}, "unknown key 'lora.use_rslora'"),
        ({"lora": {"rank": 16, "alpha": "32"}}, "lora.alpha is '32'"),
        ({"lora": None}, "lora is None in a folder of kind 'adapter'"),
        ({"accepts": 3}, "accepts is 3"),
        ({"elastic": ["a"]}, "elastic"),
        ({"kind": 5}, "does not describe a memory encoder"),
        ({"version": "1"}, "no version"),
        ({"fingerprint": None}, "no fingerprint"),
        ({"encoder": ["qformer"]}, "encoder"),
        ({"encoder": "nothing"}, "encoder"),
    ],
)
def test_a_malformed_description_of_an_encoder(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = Path(shutil.copytree(toy_memory(), tmp_path / "memory"))
    edit(folder / ABOUT, **changes)
    with pytest.raises(ValueError, match=message):
        load_encoder(folder)


def test_a_trainings_folder_is_no_encoder_yet(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("model: toy")
    with pytest.raises(ValueError, match="a training's folder: comem merge .* makes an encoder of it"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [("index.json", "an index, and not a memory encoder"), ("items.json", "a corpus, and not"),
     ("store.json", "a bank, and not"), ("step-00000002/comem_encoder.json", "give one, as .*step-00000002")],
)  # fmt: skip
def test_a_folder_of_another_kind_is_no_encoder(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=said):
        load_encoder(tmp_path)
    if "/" not in name:
        with pytest.raises(ValueError, match="a file, and no folder of an encoder"):
            load_encoder(tmp_path / name)


def test_without_a_hub_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that answers nothing: no more than one short question, and a folder is offered."""
    import time

    from comem.io import hub

    hub.hub_answers.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    try:
        for name in ("comem-tests/absent", "comem-tests/absent-too"):
            with pytest.raises(BackboneError, match="give the path of a local model folder"):
                load_processor(name)
            with pytest.raises(BackboneError, match="give the path of a local model folder"):
                load_model(name, "AutoModelForCausalLM")
        with pytest.raises(EmbedderError, match="give a folder"):
            load_embedder("ViT-B-32:openai", device="cpu")
    finally:
        hub.hub_answers.cache_clear()
    assert time.monotonic() - start < 20
