"""The video memory as an encoder: batches, folders, rows of a bank, the reader left as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone
from comem.memory.encoder import load_encoder
from comem.memory.injection.infix import infix_for
from comem.memory.video.encoder import VideoMemoryEncoder, build_encoder
from comem.modes import MODES
from comem.modes.video_memory import VideoMemoryMode
from comem.types import Example, ImageRef, KnowledgeItem, Message, VideoRef
from tests.memory.video.conftest import clip, encoder_on, frames_of

SHORT = GenerationConfig(max_new_tokens=6)


def mode_on(backbone: HFBackbone, encoder: VideoMemoryEncoder) -> VideoMemoryMode:
    made = MODES["video_memory"](backbone, encoder=encoder, generation=SHORT)
    assert isinstance(made, VideoMemoryMode)
    return made


def test_a_batch_of_lengths_equals_single_runs(tiny_reader: HFBackbone) -> None:
    encoder = encoder_on(tiny_reader)
    videos = [clip(n, n) for n in (3, 9, 9, 14)]
    together = encoder.blocks(videos)
    assert len({len(block) for block in together}) == 3
    for video, block in zip(videos, together, strict=True):
        assert torch.equal(encoder.blocks([video])[0], block)
    items = [KnowledgeItem(str(i), "", None, video=video) for i, video in enumerate(videos)]
    with torch.no_grad():
        trained = encoder(encoder.inputs(items))
    for one, other in zip(trained, together, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_answers_in_company_are_those_alone(tiny_reader: HFBackbone) -> None:
    mode = mode_on(tiny_reader, encoder_on(tiny_reader))
    asked = [Example(str(n), "What is it?", None, video=clip(n, n)) for n in (3, 9, 5)]
    asked.append(Example("without", "Who?", None))
    before = {name: value.clone() for name, value in tiny_reader.model.state_dict().items()}
    answers = mode.answer_batch(asked, [None] * 4)
    assert answers[0].context_tokens > 0 and answers[3].context_tokens == 0
    alone = [mode.answer_batch([one], [None])[0].text for one in asked]
    assert [one.text for one in answers] == alone
    assert all(torch.equal(value, before[name]) for name, value in tiny_reader.model.state_dict().items())
    assert not tiny_reader.model.get_input_embeddings()._forward_hooks


def test_the_block_has_the_authors_order(tiny_reader: HFBackbone) -> None:
    encoder = encoder_on(tiny_reader)
    table = tiny_reader.model.get_input_embeddings().weight
    features = encoder.see(clip(9))
    block = encoder.block_of(features)
    head, tail, newline = encoder.headers.memory, encoder.headers.frames, encoder.newline
    parts = [len(head), 3 * encoder.memory.vectors, 1, len(tail), 3, 1]
    words, memory, end, more, frames, last = block.split(parts)
    assert torch.equal(words, table[list(head)]) and torch.equal(more, table[list(tail)])
    assert torch.equal(end, newline) and torch.equal(last, newline)
    assert torch.equal(memory, encoder.memory.read(encoder.remember(features[None]))[0])
    assert torch.equal(frames, encoder.memory.frames(features[[0, 4, 8]]).flatten(0, 1))
    assert len(encoder.block_of(features, "memory")) == sum(parts[:3])
    assert len(encoder.block_of(features, "frames")) == sum(parts[3:])


def test_a_closed_gate_leaves_the_reader_with_the_frames_alone(tiny_reader: HFBackbone) -> None:
    encoder = encoder_on(tiny_reader, gated=True)
    features = encoder.see(clip(9))
    assert torch.equal(encoder.block_of(features), encoder.block_of(features, "frames"))
    encoder.memory.gate.data.fill_(0.5)
    assert len(encoder.block_of(features)) > len(encoder.block_of(features, "frames"))


def test_a_folder_opens_as_it_was_saved(tiny_reader: HFBackbone, tmp_path: Path) -> None:
    encoder = encoder_on(tiny_reader, cache=3, evict="merge", pool=1)
    encoder.save(tmp_path / "memory")
    again = load_encoder(tmp_path / "memory", tiny_reader)
    assert isinstance(again, VideoMemoryEncoder)
    assert again.settings == encoder.settings and again.fingerprint() == encoder.fingerprint()
    assert torch.equal(again.blocks([clip(20)])[0], encoder.blocks([clip(20)])[0])
    other = HFBackbone(tiny_reader.spec, _changed(tiny_reader.model), tiny_reader.processor)
    with pytest.raises(ValueError, match="made on another model"):
        load_encoder(tmp_path / "memory", other)
    (tmp_path / "memory" / "memory.safetensors").unlink()
    with pytest.raises(ValueError, match=r"memory\.safetensors: missing"):
        load_encoder(tmp_path / "memory", tiny_reader)


def _changed(model: Any) -> Any:
    import copy

    other = copy.deepcopy(model)
    other.get_input_embeddings().weight.data.add_(0.1)
    return other


def test_rows_of_a_bank_are_states_of_segments(tiny_reader: HFBackbone) -> None:
    encoder = encoder_on(tiny_reader)
    film = frames_of(10)
    items = [
        KnowledgeItem(
            f"film#{i:06d}", "", None, video=VideoRef(frames=film, start=4.0 * i, end=min(4.0 * i + 4, 10.0))
        )
        for i in range(3)
    ]
    state = encoder.remember(encoder.see(VideoRef(frames=film))[None])
    whole = encoder.memory.read_states(state.states)[0]
    for order in (items, items[::-1], [items[2], items[0], items[1]]):
        bank = encoder.encode(order)
        assert bank.embeddings.shape[1] == encoder.num_vectors
        for item in items:
            row = bank.select([item.id]).embeddings[0]
            assert torch.allclose(row, whole[items.index(item)], atol=1e-5)
    with pytest.raises(ValueError, match="no video"):
        encoder.encode([KnowledgeItem("text", "words", None)])


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_reader_that_is_tuned_is_saved_and_merged(tmp_path: Path, tune: str) -> None:
    from tests.backbones import tiny

    torch.manual_seed(0)
    model, processor = tiny.llava_onevision("llava_onevision")
    processor.video_processor.size = {"height": 28, "width": 28}
    backbone = HFBackbone(_spec(), model.eval(), processor)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    settings = encoder_on(backbone).settings
    encoder = build_encoder(backbone, video=settings, tune=tune)  # type: ignore[arg-type]
    names = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert not any("vision_tower" in name or "projector" in name for name in names)
    with torch.no_grad():
        for parameter in encoder.trainable_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    mode = mode_on(backbone, encoder.eval())
    asked = [Example("q", "What is it?", None, video=clip(9))]
    told = mode.answer_batch(asked, [None])[0].text
    encoder.save(tmp_path / "run")
    with torch.no_grad():
        fresh, _ = tiny.llava_onevision("llava_onevision")
        fresh.load_state_dict(base)
    again = HFBackbone(_spec(), fresh.eval(), processor)
    opened = load_encoder(tmp_path / "run", again)
    assert isinstance(opened, VideoMemoryEncoder) and opened.fingerprint() == encoder.fingerprint()
    assert mode_on(again, opened).answer_batch(asked, [None])[0].text == told
    merged = opened.merge()
    assert mode_on(again, merged).answer_batch(asked, [None])[0].text == told


def _spec() -> Any:
    from comem.backbones.specs import BACKBONES

    return BACKBONES["llava_onevision"]


def test_a_place_in_the_middle_with_an_image_beside(tiny_reader: HFBackbone, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    encoder = encoder_on(tiny_reader)
    chat = [Message("user", (ImageRef(str(tmp_path / "a.png")), "before ", clip(5), " after"))]
    answer = tiny_reader.generate([chat], encoder.blocks([clip(5)]), SHORT, infix_for(tiny_reader))
    assert answer[0].context_tokens == len(encoder.blocks([clip(5)])[0])


def test_what_has_no_place(tiny_reader: HFBackbone) -> None:
    encoder = encoder_on(tiny_reader)
    block, injection = encoder.blocks([clip(5)]), infix_for(tiny_reader)
    with pytest.raises(ValueError, match="no place for it"):
        tiny_reader.generate([[Message("user", ("words",))]], block, SHORT, injection)
    with pytest.raises(ValueError, match="2 videos"):
        tiny_reader.generate([[Message("user", (clip(5), clip(5)))]], block, SHORT, injection)
    with pytest.raises(ValueError, match="a video without a memory"):
        tiny_reader.generate([[Message("user", (clip(5), "words"))]], None, SHORT)
    with pytest.raises(ValueError, match="needs an encoder of videos"):
        MODES["video_memory"](tiny_reader)


def test_references_are_equal_by_what_they_show() -> None:
    one, same, other = (VideoRef(frames=frames_of(3, seed)) for seed in (0, 0, 1))
    assert one == same and hash(one) == hash(same) and one != other
    assert replace(one, start=1.0) != one
    for wrong in (
        {},
        {"path": "a", "frames": frames_of(2)},
        {"path": "a", "fps": 0},
        {"path": "a", "start": 2, "end": 1},
    ):
        with pytest.raises(ValueError, match=r"path|fps|start"):
            VideoRef(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8"):
        VideoRef(frames=frames_of(2).astype("float32"))
