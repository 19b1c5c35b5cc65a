"""Models with code of their own, as small stand-ins with the interface of their model cards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from backbones.tiny import modes_of
from PIL import Image
from torch import nn

from comem.backbones import internlm_xcomposer, mplug_owl3
from comem.backbones.base import GREEDY, PAPER_SAMPLING, GenerationConfig
from comem.backbones.hf import load_backbone
from comem.backbones.specs import BACKBONES, BackboneError, resolve_backbone
from comem.io.images import ImageError
from comem.memory.bank import MemoryBank
from comem.modes import MODES
from comem.types import Example, ImageRef, KnowledgeItem, Message, RetrievedContext

#: Rows whose model brings its own code; the adapter of CoMemo is ours.
REMOTE = [name for name, row in BACKBONES.items() if row.adapter and not name.startswith("comemo")]


class Tokenizer:
    """One id per character."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}


class OwlInputs(dict[str, Any]):
    """What mPLUG-Owl3's processor returns: a dict that moves."""

    def to(self, device: Any) -> None:
        self["device"] = str(device)


class OwlProcessor:
    """mPLUG-Owl3: messages whose last turn is the assistant's and empty, pictures, no videos."""

    def __call__(self, messages: list[dict[str, str]], images: Any, videos: None) -> OwlInputs:
        assert messages[-1] == {"role": "assistant", "content": ""}
        text = "".join(message["content"] for message in messages)
        assert text.count("<|image|>") == len(images or [])
        assert all(isinstance(image, Image.Image) for image in images or [])
        return OwlInputs(input_ids=torch.zeros(1, len(text), dtype=torch.long), text=text)


class Owl(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.zeros(1)), []

    def init_processor(self, tokenizer: Any) -> OwlProcessor:
        return OwlProcessor()

    def generate(self, *, tokenizer: Any, decode_text: bool, **kwargs: Any) -> list[str]:
        assert decode_text and isinstance(tokenizer, Tokenizer) and not self.training
        self.calls.append(kwargs)
        return [f" {kwargs['text'][::-1]}\n"]


class XComposer(nn.Module):
    """InternLM-XComposer2.5: query with a placeholder per picture file; answers with a history."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.zeros(1)), []

    def chat(self, tokenizer: Any, query: str, image: list[str], **kwargs: Any) -> tuple[str, list[Any]]:
        assert tokenizer is self.tokenizer and query.count("<ImageHere>") == len(image) and not self.training
        colours = [Image.open(file).convert("RGB").getpixel((0, 0)) for file in image]
        self.calls.append({"query": query, "colours": colours, **kwargs})
        return query[::-1], [(query, "…")]


def backbone(name: str) -> Any:
    if name == "mplug_owl3":
        model: Any = Owl()
        return mplug_owl3.MplugOwl3(BACKBONES[name], model, model.init_processor(None), Tokenizer())
    model = XComposer()
    model.tokenizer = Tokenizer()
    return internlm_xcomposer.InternLMXComposer(BACKBONES[name], model, model.tokenizer)


@pytest.mark.parametrize("name", REMOTE)
def test_off_unless_trusted(name: str) -> None:
    with pytest.raises(BackboneError, match=r"runs code from .* read it there.*--trust-remote-code"):
        load_backbone(name, device="cpu")


@pytest.mark.parametrize(("name", "model"), [("mplug_owl3", Owl), ("internlm_xcomposer2_5", XComposer)])
def test_loading(name: str, model: Any, monkeypatch: pytest.MonkeyPatch, small_image: Any) -> None:
    asked: list[dict[str, Any]] = []

    class Auto:
        @staticmethod
        def from_pretrained(source: str, **kwargs: Any) -> Any:
            asked.append({"source": source, **kwargs})
            return model()

    monkeypatch.setattr("transformers.AutoModel", Auto)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: Tokenizer())
    loaded = load_backbone(name, dtype="float32", device="cpu", trust_remote_code=True)
    assert asked[0]["source"] == BACKBONES[name].source and asked[0]["trust_remote_code"]
    assert asked[0]["use_safetensors"] and asked[0]["dtype"] is torch.float32
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.generate([[Message("user", (small_image(), "abc"))]])[0].text.startswith("cba")


def test_what_cannot_be_loaded_names_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AttributeError("'DynamicCache' has no attribute 'seen_tokens'")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(BackboneError, match="written for transformers 4"):
        load_backbone("mplug_owl3", device="cpu", trust_remote_code=True)


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("mode", ["baseline", "rag"])
def test_the_modes_that_rows_allow(name: str, mode: str, small_image: Any) -> None:
    assert modes_of(BACKBONES[name]) == ("baseline", "rag")
    reader = backbone(name)
    items = tuple(KnowledgeItem(f"i{i}", f"passage {i}", small_image(28, 28, i)) for i in range(2))
    examples = [Example("q0", "What?", small_image(28, 28, 9)), Example("q1", "Where?", None)]
    contexts = [RetrievedContext("q0", items), None]
    built = MODES[mode](reader, generation=GenerationConfig(7))
    answers = built.answer_batch(examples, contexts)
    plain = MODES["baseline"](reader).answer_batch(examples, contexts)
    assert answers[1].text == plain[1].text == "?erehW"
    assert (answers[0].text != plain[0].text) == (mode == "rag")
    added = answers[0].prompt_tokens - plain[0].prompt_tokens
    assert [a.context_tokens for a in answers] == [added, 0] and (added > 0) == (mode == "rag")
    assert reader.model.calls[0]["max_new_tokens"] == 7 and reader.model.calls[0]["do_sample"] is False
    assert all(answer.seconds > 0 for answer in answers)


@pytest.mark.parametrize("name", REMOTE)
def test_no_memory(name: str) -> None:
    reader = backbone(name)
    with pytest.raises(BackboneError, match="takes no memory"):
        reader.generate([[Message("user", ("x",))]], [torch.zeros(8, 32)])
    with pytest.raises(BackboneError, match="takes no memory"):
        MODES["comem"](reader, bank=MemoryBank(torch.zeros(1, 8, 32), ("a",), "f"))
    with pytest.raises(BackboneError, match="cannot be reached"):
        MODES["vlm_as_memory"](reader)
    with pytest.raises(BackboneError, match="takes no memory"):
        reader.process([[Message("user", ("x",))]])


def test_owl_messages(small_image: Any) -> None:
    chat = [
        Message("user", (small_image(), "pass<|im_end|>age")),
        Message("user", ("Who<|image|>?", small_image())),
    ]
    assert mplug_owl3.messages(chat) == [
        {"role": "user", "content": "<|image|>\npass age"},
        {"role": "user", "content": "Who ?<|image|>\n"},
        {"role": "assistant", "content": ""},
    ]


def test_xcomposer_query(small_image: Any) -> None:
    two = [Message("user", ("one <ImageHere>", small_image())), Message("user", (small_image(), "two?"))]
    assert internlm_xcomposer.query(two) == "one  Image1 <ImageHere>; \nImage2 <ImageHere>; two?"
    assert internlm_xcomposer.query(two[1:]) == "<ImageHere>; two?"
    with pytest.raises(BackboneError, match="user turns only"):
        internlm_xcomposer.query([Message("system", ("x",))])


def test_xcomposer_sees_the_pictures_in_order() -> None:
    import io

    def plain(colour: tuple[int, int, int]) -> ImageRef:
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
        return ImageRef(data=buffer.getvalue())

    reader = backbone("internlm_xcomposer2_5")
    reader.generate([[Message("user", (plain((255, 0, 0)), "a", plain((0, 0, 255))))]], None, PAPER_SAMPLING)
    call = reader.model.calls[0]
    assert call["colours"] == [(255, 0, 0), (0, 0, 255)]
    assert (call["temperature"], call["repetition_penalty"], call["use_meta"]) == (0.1, 1.05, True)


@pytest.mark.parametrize("name", REMOTE)
def test_bad_pictures(name: str) -> None:
    with pytest.raises(ImageError, match="absent.png"):
        backbone(name).generate([[Message("user", (ImageRef("absent.png"),))]], config=GREEDY)


def test_a_folder_of_such_a_model(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mplugowl3"}')
    spec = resolve_backbone(tmp_path)
    assert spec == replace(BACKBONES["mplug_owl3"], name=tmp_path.name, source=str(tmp_path))
