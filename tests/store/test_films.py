"""Videos in a memory: stretches with their times, found by what is seen, said, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from store.conftest import QUESTION

from comem.io.images import open_image
from comem.io.video import VideoError, write_video
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.sources import CorpusSettings
from comem.store.asynchronous import AsyncMemory
from comem.store.films import stretches, subtitles
from comem.toy.draw import image_of, png
from comem.types import VideoRef

pytest.importorskip("av")


def film(path: Path, towns, seconds: int = 10, fps: float = 1.0) -> Path:
    """Each town is shown for some seconds, and subtitles say what it is."""
    frames, lines = [], ["WEBVTT", ""]
    for n, town in enumerate(towns):
        frames += [np.asarray(open_image(image_of(town, view=0)))] * int(seconds * fps)
        at = n * seconds
        lines += [f"{at // 60:02}:{at % 60:02}.000 --> {at // 60:02}:{at % 60 + 5:02}.000 align:start"]
        lines += [f"<v Ann>{town.name}: {town.passage()}", ""]
    write_video(path, frames, fps)
    path.with_suffix(".vtt").write_text("\n".join(lines), encoding="utf-8")
    return path


def test_stretches_cover_the_film_and_show_their_middle(tmp_path: Path) -> None:
    shades = [np.full((32, 32, 3), 8 * n, np.uint8) for n in range(25)]
    write_video(tmp_path / "a.mkv", shades)
    found = list(stretches(VideoRef(str(tmp_path / "a.mkv"))))
    assert [(each.start, each.end) for each in found] == [(0, 10), (10, 20), (20, 25)]
    middles = [round(np.asarray(open_image(each.image)).mean() / 8) for each in found]
    assert middles == [5, 15, 23]  # a JPEG of one shade
    part = list(stretches(VideoRef(str(tmp_path / "a.mkv"), start=3, end=9), 4))
    assert [(each.start, each.end) for each in part] == [(3, 7), (7, 9)]
    frames = list(stretches(VideoRef(frames=np.stack(shades), fps=5)))
    assert [(each.start, each.end) for each in frames] == [(0, 5)]
    with pytest.raises(VideoError, match="no frames from 60 s"):
        list(stretches(VideoRef(str(tmp_path / "a.mkv"), start=60)))


def test_subtitles() -> None:
    srt = "1\n00:00:01,500 --> 00:00:02,000\n<i>Hello</i>\nthere.\n\n2\n01:00:00,000 --> 01:00:01,0\nEnd."
    assert subtitles(srt) == [(1.5, "Hello there."), (3600.0, "End.")]
    assert subtitles(srt.replace("\n", "\r\n")) == subtitles(srt)
    cues = [
        "NOTE no cue",
        "00:05.000 --> 00:06.000 align:start\n<v Ann>A mill.",
        "id\n10:00.000 --> 10:01.000",
    ]
    assert subtitles("\n\n".join(["WEBVTT", *cues])) == [(5.0, "A mill.")] and subtitles("no subtitles") == []


def test_a_video_is_remembered_by_its_stretches_and_says_when(opened, towns, tmp_path: Path) -> None:
    memory, path = opened(), film(tmp_path / "tour.mkv", towns[:3])
    added = memory.add(path, user_id="ann", metadata={"trip": "north"})
    assert len(added.ids) == 3 and added.skipped == ()
    answer = memory.ask(QUESTION, image_of(towns[1], view=1), user_id="ann")
    assert answer.items[0].when == "0:10 to 0:20" and answer.text == towns[1].value("stone")
    assert answer.items[0].metadata == {"trip": "north", "file": "tour.mkv", "start": 10.0, "end": 20.0}
    assert answer.items[0].as_dict()["when"] == "0:10 to 0:20"
    assert memory.search(towns[2].name, k=1)[0].when == "0:20 to 0:30", "by what is said"
    at = {"file": "tour.mkv", "start": {"lte": 14}, "end": {"gt": 14}}
    assert [item.when for item in memory.search("town", filters=at)] == ["0:10 to 0:20"], "by the time"
    assert memory.add("a text").id and memory.get_all(limit=1)[0].when == ""
    memory.update(added.ids[1], "Cut.")
    assert memory.get(added.ids[1]).when == "0:10 to 0:20" and len(memory.history(added.ids[1])) == 2
    memory.delete(added.ids[1])
    assert memory.search("town", filters=at) == [] and memory.check() == []


def test_a_video_that_changed_is_brought_up_to_date(opened, towns, tmp_path: Path) -> None:
    memory, path = opened(), film(tmp_path / "tour.mkv", towns[:3])
    ids = memory.add(path).ids
    again = memory.add(str(path))
    assert again.ids == () and again.unchanged == 3
    film(path, [towns[0], towns[4]])  # shorter, and another town in its second stretch
    assert memory.add(path).ids == ids[1:2] and len(memory) == 2, "what is no longer in it is gone"
    assert towns[4].name in memory.get(ids[1]).text
    assert [event["event"] for event in memory.history(ids[1])] == ["ADD", "UPDATE"]
    assert len(memory.add(path, stretch=5).ids) == len(memory) == 4
    assert len(memory.add(VideoRef(str(path), start=0, end=10)).ids) == 1 and len(memory) == 3
    other = memory.add(path, user_id="ben")
    assert len(other.ids) == 2 and len(memory) == 5, "another's is another's"


def test_a_folder_of_images_and_videos(opened, towns, tmp_path: Path) -> None:
    memory, folder = opened(), tmp_path / "trip"
    (folder / "films").mkdir(parents=True)
    film(folder / "films" / "tour.mkv", towns[:2])
    (folder / "films" / "broken.mp4").write_bytes(b"no film")
    (folder / "mill.png").write_bytes(png(towns[3], 0))
    added = memory.add(folder)
    assert len(added.ids) == 3 and len(added.skipped) == 1 and "broken.mp4" in added.skipped[0]
    assert {item.metadata["file"] for item in memory.get_all()} == {"films/tour.mkv", "mill.png"}
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        memory.add(folder / "films" / "broken.mp4")
    with pytest.raises(ValueError, match="more than 0"):
        memory.add(folder / "films" / "tour.mkv", stretch=0)
    assert memory.get(memory.add(str(folder / "mill.png")).id).image is not None, "an image by its path alone"
    build_corpus(CorpusSettings(sources=(str(folder / "films"),), output=tmp_path / "corpus", segment=10))
    corpus = opened("of_corpus")
    corpus.add(tmp_path / "corpus")
    assert {item.when for item in corpus.get_all()} == {"0:00 to 0:10", "0:10 to 0:20"}


def test_videos_can_be_awaited(opened, towns, tmp_path: Path) -> None:
    path = film(tmp_path / "tour.mkv", towns[:2])

    async def talk() -> None:
        async with AsyncMemory(opened()) as memory:
            added = await memory.add(path)
            answer = await memory.ask(QUESTION, image_of(towns[1], view=1), attention=False)
            assert answer.items[0].id == added.ids[1] and answer.items[0].when == "0:10 to 0:20"
            await memory.update(added.ids[0], "Cut.")
            assert len(await memory.history(added.ids[0])) == 2

    asyncio.run(talk())
