"""Videos as a corpus: a row a segment, found by a frame of it, remembered in a bank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import comem
from comem.backbones.base import GenerationConfig
from comem.bank.build import encode
from comem.bank.reader import MemoryStore
from comem.bank.serve import open_bank
from comem.bank.settings import EncodeSettings
from comem.io.images import open_image
from comem.io.video import VideoError, pick, video_address, video_ref, write_video
from comem.memory.injection.infix import infix_for
from comem.modes import MODES
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.sources import CorpusSettings, find_sources, read_corpus
from comem.retrieval.corpus.table import write_knowledge_base
from comem.retrieval.corpus.videos import clock
from comem.retrieval.index import build_index
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.settings import RETRIEVERS, IndexSettings, RetrieverSettings
from comem.toy.draw import draw, image_of
from comem.toy.world import World
from comem.types import Example, KnowledgeItem, Message, RetrievedContext, VideoRef
from tests.memory.video.conftest import encoder_on, frames_of, make_reader

pytest.importorskip("av")


def films(folder: Path, count: int, frames: int = 5) -> Path:
    folder.mkdir()
    for number in range(count):
        write_video(folder / f"film_{number:02d}.mkv", list(frames_of(frames, number)))
    return folder


def test_which_of_200_videos_and_when(tmp_path: Path) -> None:
    """Each film shows two towns' arms for two seconds each; asked by another picture of a town."""
    folder, towns = tmp_path / "films", World(seed=3, size=400).entities
    folder.mkdir()
    for number in range(200):
        pair = towns[2 * number : 2 * number + 2]
        shown = [np.asarray(draw(town, 0, 56)) for town in pair for _ in range(2)]
        write_video(folder / f"{number:03d}.mkv", shown)
    index = tmp_path / "index"
    build_corpus(CorpusSettings(sources=(str(folder),), output=index, segment=2))
    assert len(build_index(IndexSettings(corpus=(str(index),), output=index, embedder="toy")).base) == 400
    retriever = RETRIEVERS["faiss"](RetrieverSettings(index=index))
    asked = [Example(town.id, "Which film shows it, and when?", image_of(town, 7)) for town in towns[::8]]
    found = retriever.retrieve(asked, k=1)
    right = 0
    for number, example in enumerate(asked):
        (item,) = found[example.id].items
        film, second = 4 * number, 0  # towns[8 n] opens film 4 n
        right += item.id == f"{film:03d}.mkv#{second:06d}"
        assert item.video is not None and item.text.endswith(
            f", {clock(item.video.start)} to {clock(item.video.end or 0)}"
        )
    assert right >= 0.9 * len(asked)
    late = Example("late", "?", image_of(towns[101], 7))
    (item,) = retriever.retrieve([late], k=1)["late"].items
    assert (item.id, item.text) == ("050.mkv#000001", "050, 0:02 to 0:04")
    assert item.video == VideoRef(str(folder / "050.mkv"), start=2, end=4)


def test_a_bank_of_segments_is_made_and_read_as_any_other(tmp_path: Path) -> None:
    reader = make_reader()
    reader.model.save_pretrained(tmp_path / "model")
    reader.processor.save_pretrained(tmp_path / "model")
    backbone = comem.load_backbone(tmp_path / "model", device="cpu")
    encoder = encoder_on(backbone)  # segments of 4 frames
    encoder.save(tmp_path / "memory")
    folder = films(tmp_path / "films", 3, frames=6)
    (folder / "film_01.txt").write_text("Two dogs run.")
    corpus = tmp_path / "corpus"
    base = build_corpus(CorpusSettings(sources=(str(folder),), output=corpus, segment=4))
    assert [item.text for item in base][1:4] == [
        "film 00, 0:04 to 0:06", "film 01, 0:00 to 0:04: Two dogs run.",
        "film 01, 0:04 to 0:06: Two dogs run.",
    ]  # fmt: skip
    made = EncodeSettings(
        str(tmp_path / "memory"), tmp_path / "bank", index=corpus, device="cpu", form="fp32"
    )
    assert encode(made).encoded == 6
    whole = encoder.remember(encoder.see(VideoRef(str(folder / "film_02.mkv")))[None])
    states = encoder.memory.read_states(whole.states)[0]  # (S, v, d)
    ids = ["film_02.mkv#000000", "film_02.mkv#000001"]
    stored = torch.from_numpy(MemoryStore(tmp_path / "bank").read(ids))
    torch.testing.assert_close(stored, states, atol=1e-5, rtol=1e-5)
    block = encoder.block(stored.flatten(0, 1), None)
    asked = Message("user", (VideoRef(frames=frames_of(1)), "\nWhat was there?"))
    assert len(backbone.generate([[asked]], [block], injection=infix_for(backbone))) == 1
    mode = MODES["comem"](
        backbone, encoder=encoder, bank=open_bank(tmp_path / "bank", encoder), generation=GenerationConfig(2)
    )
    found = RetrievedContext("q", tuple(base.items([4, 5])))
    (answer,) = mode.answer_batch([Example("q", "What was there?", None)], [found])
    assert answer.context_tokens == 2 * encoder.memory.vectors
    assert encode(made).unchanged == 6
    write_video(folder / "film_02.mkv", list(frames_of(6, 99)))
    again = encode(made)
    assert (again.encoded, again.changed, again.unchanged) == (2, 2, 4)


def test_the_picture_is_a_frame_of_the_segment_kept_like_other_images(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    shades = [np.full((16, 16, 3), 20 * at, dtype=np.uint8) for at in range(7)]
    write_video(folder / "a.mkv", shades)
    base = build_corpus(CorpusSettings(sources=(str(folder),), output=tmp_path / "corpus", segment=4))
    pictures = [open_image(item.image) for item in base if item.image]
    assert [round(np.asarray(picture).mean()) for picture in pictures] == [40, 100]  # frames 2 and 5
    assert all(Path(path).is_relative_to(tmp_path / "corpus" / "images") for path in base.images())


def test_frames_of_a_video_that_varies_or_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = films(tmp_path / "films", 1, frames=9)
    (folder / "cut.mp4").write_bytes(b"\0" * 64)
    (folder / "empty.mkv").touch()
    base = build_corpus(
        CorpusSettings(sources=(str(folder),), output=tmp_path / "corpus", segment=4, fps=0.5)
    )
    assert [item.id for item in base] == ["film_00.mkv#000000", "film_00.mkv#000001"]
    spans = [item.video for item in base]
    assert [(ref.start, ref.end, len(pick(ref))) for ref in spans if ref] == [(0, 8, 4), (8, 10, 1)]
    dropped = base.manifest["rows"]["dropped"]
    assert dropped == {"broken video": 2} and "cut.mp4" in caplog.text and "empty.mkv" in caplog.text


def test_segments_of_a_film_in_a_file_of_ones_own(tmp_path: Path) -> None:
    folder = films(tmp_path / "films", 1)
    rows: list[dict[str, Any]] = [
        {"id": "a", "text": "first", "video": "films/film_00.mkv#t=0,2"},
        {"id": "b", "text": "then", "video": {"path": "films/film_00.mkv", "start": 2, "end": 4, "fps": 2}},
        {"id": "c", "text": "odd", "video": {"start": 2}},
        {"id": "d", "text": "none"},
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    film = str(folder / "film_00.mkv")
    wanted = [VideoRef(film, end=2), VideoRef(film, start=2, end=4, fps=2), None]
    assert [item.video for item in read_corpus(find_sources([tmp_path / "own.jsonl"]))] == wanted
    write_knowledge_base(read_corpus(find_sources([tmp_path / "own.jsonl"])), tmp_path / "base")
    assert [item.video for item in KnowledgeBase(tmp_path / "base")] == wanted
    (single,) = read_corpus(find_sources([film]))
    assert single.id == "film_00.mkv#000000" and single.video == VideoRef(film, end=5)


def test_addresses_of_videos(tmp_path: Path) -> None:
    for ref in (
        VideoRef("a b#1.mp4"),
        VideoRef("x/y.mp4", start=1.5),
        VideoRef("y.mp4", start=2, end=7, fps=0.5),
    ):
        found = video_ref(video_address(ref), tmp_path)
        assert (found.start, found.end, found.fps) == (ref.start, ref.end, ref.fps)
        assert found.path == str(tmp_path / str(ref.path))
    for wrong in ("a.mp4#t=x", "a.mp4#t=5,2", {"start": 1}):
        with pytest.raises(VideoError, match="no reference to a video"):
            video_ref(wrong, tmp_path)


def test_a_corpus_without_pyav_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    folder = films(tmp_path / "films", 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"comem\[video\]"):
        list(read_corpus(find_sources([folder])))
    assert KnowledgeItem("a", "b", None).video is None
