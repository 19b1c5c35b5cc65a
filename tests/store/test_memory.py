"""`comem.Memory` on the embedded models: added is answerable, deleted is gone, nobody sees another's."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from store.conftest import QUESTION

import comem
from comem.io.files import StorageError
from comem.io.images import ImageError, open_image
from comem.store.asynchronous import AsyncMemory
from comem.store.shapes import Ask
from comem.store.table import MemoryFolderError, NoItemError
from comem.toy.draw import image_of, png
from comem.types import ImageRef, Message


def test_what_was_added_is_answered_at_once(remembered, towns) -> None:
    right = 0
    for town in towns:
        answer = remembered.ask(QUESTION, image_of(town, view=1))
        assert answer.items[0].id == town.id and answer.seconds > 0
        assert answer.mode == "comem" and answer.context_tokens == 24
        right += answer.text == town.value("stone")
    assert right >= 5


def test_an_answer_is_the_one_of_the_mode_itself(remembered, towns, models) -> None:
    """The same items, encoded anew and given to the mode of the library, and to its plain backbone."""
    town = towns[0]
    answer = remembered.ask(QUESTION, image_of(town, view=1), k=2)
    items = tuple(comem.KnowledgeItem(i.id, i.text, i.image) for i in answer.items)
    mode = comem.MODES["comem"](models._backbone, comem.ModeSettings(encoder=models.encoder))
    example = comem.Example("q", QUESTION, image_of(town, view=1))
    (plain,) = mode.answer_batch([example], [comem.RetrievedContext("q", items)])
    assert answer.text == plain.text and answer.prompt_tokens == plain.prompt_tokens


def test_the_stored_memory_is_the_encoders(remembered, towns, models) -> None:
    (hit,) = remembered._retrieve([Ask(QUESTION, image_of(towns[0], view=0), mode="comem", k=1)])[0]
    stored = remembered._bank([[hit]]).embeddings[0]
    made = models.encoder.encode([hit.item]).embeddings[0]
    assert torch.allclose(stored, made.bfloat16().float(), atol=1e-6)


def test_every_mode_answers(remembered, towns) -> None:
    image = image_of(towns[0], view=1)
    for mode in ("comem", "rag", "baseline", "vlm_as_memory"):
        answer = remembered.ask(QUESTION, image, mode=mode, attention=False)
        assert answer.text and answer.mode == mode
        assert bool(answer.items) == (mode != "baseline")
    with pytest.raises(ValueError, match="did you mean comem"):
        remembered.ask(QUESTION, image, mode="comen")


def test_attention_goes_to_the_right_item_and_sums_to_less_than_one(remembered, towns) -> None:
    for town in towns[:3]:
        items = remembered.ask(QUESTION, image_of(town, view=1)).items
        shares = [item.attention for item in items]
        assert all(0 < share < 1 for share in shares) and sum(shares) < 1
        assert max(shares) == shares[0]


def test_attention_is_the_mean_of_the_models_own_weights(remembered, towns, models) -> None:
    """Against one eager pass of the model, whose weights transformers itself returns."""
    from comem.backbones.base import Message as Turn
    from comem.memory.lora import adapters_off

    answer = remembered.ask(QUESTION, image_of(towns[0], view=1), k=2)
    backbone, injection = models.backbone, models.injection
    assert len(backbone.process.tokenizer(answer.text)["input_ids"]) == 1
    chat = [Turn("user", (image_of(towns[0], view=1), QUESTION))]
    inputs = backbone.place(backbone.process([chat]))
    hits = remembered._retrieve([Ask(QUESTION, image_of(towns[0], view=1), mode="comem", k=2)])
    memory = remembered._bank(hits).prefix()
    backbone.model.set_attn_implementation("eager")
    try:
        with (
            torch.no_grad(),
            adapters_off(backbone.model),
            injection.attach(backbone.model, inputs, [memory]) as x,
        ):
            weights = backbone.model(**x, output_attentions=True).attentions
    finally:
        backbone.model.set_attn_implementation("sdpa")
    mean = torch.stack(weights)[:, 0, :, -1].mean(dim=(0, 1))
    for number, item in enumerate(answer.items):
        assert item.attention == pytest.approx(float(mean[number * 8 : number * 8 + 8].sum()), rel=1e-4)


def test_pieces_joined_are_the_answer(remembered, towns) -> None:
    image = image_of(towns[0], view=1)
    whole = remembered.ask("Describe the town.", image, attention=False)
    pieces = list(remembered.stream("Describe the town.", image, attention=False))
    assert "".join(pieces) == whole.text


def test_stop_words_limits_and_seeds(remembered, towns) -> None:
    image = image_of(towns[0], view=1)
    options = {"temperature": 3.0, "seed": 5, "max_tokens": 12, "attention": False, "k": 0}
    first = remembered.ask("Tell.", image, **options)
    assert first.text == remembered.ask("Tell.", image, **options).text
    assert first.completion_tokens <= 12 and (first.ending == "length") == (first.completion_tokens == 12)
    word = first.text.split()[1]
    cut = remembered.ask("Tell.", image, **options, stop=(word,))
    assert cut.ending == "stop" and word not in cut.text and first.text.startswith(cut.text)
    assert cut.text == remembered.ask("Tell.", image, **options, stop=word).text, "one text, not its letters"
    pieces = list(remembered.stream("Tell.", image, **options, stop=(word,)))
    assert "".join(pieces) == cut.text
    asked = [Ask("Tell.", image, max_tokens=n, k=0) for n in (1, 2, 5)]
    assert all(len(each.text.split()) <= 5 for each in remembered.ask_many(asked))


def test_who_goes_away_stops_the_model(remembered, towns) -> None:
    seen = []
    answer = remembered.ask(
        "Tell.", image_of(towns[0], view=1), temperature=3.0, seed=5, max_tokens=500, attention=False,
        on_text=seen.append, cancelled=lambda: len(seen) > 2,
    )  # fmt: skip
    assert answer.ending == "cancelled" and answer.completion_tokens < 100


def test_many_at_once_answer_as_one_by_one(remembered, towns) -> None:
    asks = [Ask(QUESTION, image_of(town, view=1), mode=mode) for town in towns for mode in ("comem", "rag")]
    together = remembered.ask_many(asks)
    alone = [remembered.ask_many([each])[0] for each in asks]
    assert [a.text for a in together] == [a.text for a in alone]
    assert [[i.id for i in a.items] for a in together] == [[i.id for i in a.items] for a in alone]


def test_deleted_is_gone_from_files_and_answers(remembered, towns, tmp_path: Path) -> None:
    town = towns[0]
    name, picture = town.name.encode(), png(town, 0)
    assert name in everything(tmp_path) and picture[500:540] in everything(tmp_path)
    remembered.delete(town.id)
    found = everything(tmp_path)
    assert name not in found and town.name.lower().encode() not in found
    assert not any(picture[at : at + 40] in found for at in range(100, len(picture) - 40, 500))
    answer = remembered.ask(QUESTION, image_of(town, view=1))
    assert town.id not in [item.id for item in answer.items]
    assert not any(item.id == town.id for item in remembered.search(town.name))
    for none in (town.id, None):
        with pytest.raises(NoItemError, match=str(none)):
            remembered.get(none)
    assert remembered.delete_all(user_id="ben") == 3 and len(remembered) == 2
    with pytest.raises(ValueError, match="whose"):
        remembered.delete_all()
    assert remembered.delete_all(everything=True) == 2
    assert remembered.ask(QUESTION, image_of(town, view=1)).items == ()


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_nobody_sees_anothers(remembered, towns) -> None:
    ann, ben = ({item.id for item in remembered.get_all(user_id=name)} for name in ("ann", "ben"))
    assert len(ann) == len(ben) == 3 and not ann & ben
    for town in towns:
        for name, own in (("ann", ann), ("ben", ben)):
            assert {i.id for i in remembered.search(town.name, image_of(town, view=1), user_id=name)} == own
            assert {i.id for i in remembered.ask(QUESTION, image_of(town, view=1), user_id=name).items} == own
    assert remembered.search("anything", user_id="nobody") == []
    assert remembered.count(user_id="ann") == 3


def test_filters_thresholds_and_both_kinds_of_query(remembered, towns) -> None:
    year = towns[0].facts["founded"]
    assert [i.id for i in remembered.search("a town", filters={"founded": year})] == [towns[0].id]
    assert remembered.search(image=image_of(towns[0], view=1), threshold=0.8)[0].id == towns[0].id
    assert remembered.search(image=image_of(towns[0], view=1), threshold=1.1) == []
    assert remembered.search(towns[1].name, k=1)[0].id == towns[1].id
    both = remembered.search(towns[1].name, image_of(towns[0], view=1), k=2)
    assert {item.id for item in both} == {towns[0].id, towns[1].id}
    for wrong in ({"query": " "}, {"query": "a", "weight": 2}, {"query": 5}, {"query": "a", "k": 2.5}):
        with pytest.raises(ValueError, match=r"give a text|0 to 1|whole number"):
            remembered.search(**wrong)


def test_update_changes_the_answer_and_keeps_what_is_not_given(remembered, towns, opened) -> None:
    one, two = towns[0], towns[1]
    item = remembered.update(one.id, f"{one.name}: {two.passage()}")
    assert item.user_id == "ann" and item.metadata["founded"] == one.facts["founded"]
    assert open_image(item.image).size == (112, 112)
    assert remembered.ask(QUESTION, image_of(one, view=1), k=1).text == two.value("stone")
    events = remembered.history(one.id)
    assert [e["event"] for e in events] == ["ADD", "UPDATE"] and one.passage() in events[1]["old_memory"]
    assert remembered.check() == []


def test_things_to_add(opened, towns, tmp_path: Path) -> None:
    memory = opened()
    town, path = towns[0], tmp_path / "mill.png"
    path.write_bytes(png(town, 0))
    assert memory.get(memory.add("text alone").id).image is None
    assert memory.get(memory.add(image=path).id).text == ""
    assert memory.get(memory.add(image=str(path), metadata={"a": [1]}).id).metadata == {"a": [1]}
    assert open_image(memory.get(memory.add("x", open_image(path)).id).image).size == (112, 112)
    several = memory.add(
        ["one", {"text": "two", "metadata": {"n": 2}}, comem.KnowledgeItem("k", "three", None)]
    )
    assert len(several.ids) == 3 and several.ids[2] == "k" and memory.get(several.ids[1]).metadata == {"n": 2}
    deep: list = []
    for _ in range(3000):
        deep = [deep]
    talk = memory.add([{"role": "user", "content": "I am Ann."}, {"role": "assistant", "content": "Hello."}])
    assert memory.get(talk.id).text == "user: I am Ann."
    for wrong, message in (
        ({"content": "  "}, "nothing to remember"),
        ({"image": b"no image"}, "not an image"),
        ({"image": tmp_path / "no.png"}, "no.png"),
        ({"content": "x" * 300_000}, "in parts"),
        ({"content": "x", "metadata": {"a": object()}}, "JSON"),
        ({"content": "again", "id": "k"}, "there already"),
        ({"content": Path("/no/such")}, "no such"),
        ({"content": "x", "image": "http://127.0.0.1/a.png"}, "127.0.0.1"),
        ({"content": "nowhere.jpg"}, "no such file"),
        ({"content": b"bytes"}, "bytes is no text"),
        ({"content": open_image(path)}, "PngImageFile is no text"),
        ({"content": ["a", ["b"]]}, "list is no text"),
        ({"image": 5}, "an image is a path"),
        ({"content": {"role": "user", "content": 5}}, "a list of"),
        ({"content": {"role": "user", "content": ["a"]}}, "a list of"),
        ({"content": {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}}, "a list of"),
        ({"content": "x", "metadata": "y"}, "metadata is a mapping"),
        ({"content": {"text": "x", "metadata": [1]}}, "metadata is a mapping"),
        ({"content": "x", "metadata": {"a": deep}}, "JSON"),
        ({"content": "x", "user_id": "\ud800"}, "half a character"),
        ({"content": "x", "user_id": ["ann"]}, "owners are texts"),
    ):
        with pytest.raises(ValueError, match=message):
            memory.add(**wrong)
    with pytest.raises(ImageError, match="at most"):
        memory.add(image=b"\x89PNG" + b"0" * 65_000_000)
    assert memory.check() == [] and len(memory) == 9


@pytest.mark.parametrize(
    "text",
    [
        "The mill was built in 1204, and stands. " * 12,
        "水车建于一二零四年。" * 20,
        "~3 km behind it",
        "a.b",
        "x" * 900,
    ],
)
def test_a_text_is_no_path(opened, text: str) -> None:
    """However long its words are, and whatever it begins with."""
    with opened() as memory:
        assert memory.get(memory.add(text).id).text == text.strip()


def test_more_items_than_one_query_takes(remembered) -> None:
    table, numbers = remembered._table, range(1, 40_000)
    assert len(table.read(numbers)) == len(table.pictured(numbers)) == 6
    for wrong in ({"filters": {"a": 2**70}}, {"limit": 2**70}):
        with pytest.raises(MemoryFolderError, match="beyond 64 bits"):
            remembered.get_all(**wrong)
    for nothing in ({"AND": [{}]}, {"NOT": []}, {"OR": []}, {"year": {}}):  # would be everything
        with pytest.raises(MemoryFolderError, match=r"give an object|nothing to compare"):
            remembered.delete_all(filters=nothing)
    assert len(remembered) == 6


def test_a_picture_in_any_form_is_the_same_one(opened, towns, tmp_path: Path, monkeypatch) -> None:
    memory, data, path = opened(), png(towns[0], 0), tmp_path / "a b\u202f.png"
    path.write_bytes(data)
    monkeypatch.setenv("HOME", str(tmp_path))
    text, pixels = base64.b64encode(data).decode(), open_image(data)
    uri = f"DATA:image/png;charset=x;base64,{text[:76]}\n{text[76:]}"
    forms = [
        path, str(path), f"file://{path}", f"~/{path.name}", uri, text, data, bytearray(data), pixels,
        np.asarray(pixels), {"bytes": data, "path": None}, {"path": str(path)}, [str(path)],
        {"type": "image_url", "image_url": {"url": uri}}, {"image_url": uri}, comem.ImageRef(data=data),
    ]  # fmt: skip
    added = [memory.add(image=form).id for form in forms]
    said = [{"type": "text", "text": "this"}, {"type": "image_url", "image_url": uri}]
    added += [memory.add({"text": "t", "image": form}).id for form in forms]
    added.append(memory.add({"role": "user", "content": said}).id)
    kept = [open_image(memory.get(each).image) for each in added]
    assert all(each.tobytes() == pixels.tobytes() for each in kept)
    assert memory.search(image=forms[9], k=1) and memory.ask("?", forms[10], max_tokens=1).items
    assert memory.get(memory.add({"text": "t", "image": ""}).id).image is None
    os.mkfifo(tmp_path / "pipe.png")
    for wrong, message in (
        (tmp_path / "pipe.png", "no file"), ("HTTPS://host/x.png", "an address"), ({"colour": 1}, "dict has"),
        (np.zeros((2, 2)), "uint8"), ("", "the image is empty"), (7, "an image is a path"),
        ("data:image/png;base64,@@", "no base64"), ([path, path], "one image is expected"),
    ):  # fmt: skip
        for call in (memory.add, memory.search, partial(memory.ask, "?")):
            with pytest.raises(ImageError, match=message):
                call(image=wrong)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("word " * 80, ("word " * 80).strip()), ("~nobody", "~nobody"), ("d/" * 200, "d/" * 200),
        ("half \ud83d", "half \ufffd"), ("\udcff", "\ufffd"),
        ("pair \ud83d\ude00", "pair \U0001f600"), ("null", "null"), ("nan", "nan"),
    ],
)  # fmt: skip
def test_a_text_is_kept_whatever_it_looks_like(opened, text: str, kept: str) -> None:
    memory = opened()
    assert memory.get(memory.add(text).id).text == kept
    assert memory.get(memory.add({"text": text, "id": 0}, metadata={"a": text}).id).id == "0"
    assert memory.search(text)[0].text == kept and memory.ask(text, max_tokens=1).items
    assert memory.update("0", text=text).text == kept
    assert [each.id for each in memory.search("x", filters={"a": text})] == ["0"]


def test_odd_rows_of_an_export_are_left_out(opened, tmp_path: Path) -> None:
    memory = opened()
    memory.add("one", id="1")
    memory.export(tmp_path / "sent")
    Path(tmp_path / "secret.png").write_bytes(b"x")
    with open(tmp_path / "sent" / "items.jsonl", "a") as file:
        for row in (
            {"id": "2"},
            {"text": "no id"},
            {"id": "3", "text": "x", "image": {"a": 1}},
            {"id": "4", "text": "x", "image": "../../secret.png"},
            {"id": 5, "text": "t", "metadata": [1]},
        ):
            file.write(json.dumps(row) + "\n")
    added = opened("other").add(tmp_path / "sent")
    assert len(added.ids) == 3 and {"1", "5"} < set(added.ids) and len(added.skipped) == 3


def test_a_folder_of_which_a_third_is_no_picture(opened, towns, tmp_path: Path) -> None:
    folder, memory = tmp_path / "trip", opened()
    (folder / "deep").mkdir(parents=True)
    for n, town in enumerate(towns):
        (folder / "deep" / f"{n}.png").write_bytes(png(town, 0))
        (folder / "deep" / f"{n}.txt").write_text(f"{town.name}: {town.passage()}")
    for n in range(3):
        (folder / f"broken{n}.jpg").write_bytes(b"\xff\xd8 no picture")
        (folder / f"notes{n}.docx").write_bytes(b"PK")
    done = memory.add(folder, user_id="ann")
    assert len(done.ids) == 6 and done.unchanged == 0 and len(done.skipped) == 3
    assert all("broken" in reason for reason in done.skipped)
    assert memory.ask(QUESTION, image_of(towns[2], view=1), user_id="ann").text == towns[2].value("stone")
    assert memory.get(done.id).metadata["file"] == "deep/0.png" and "/" not in done.id
    assert memory.add(folder / "deep" / "..", user_id="dan").ids
    again = memory.add(str(folder), user_id="ann")
    assert again.ids == () and again.unchanged == 6
    (folder / "deep" / "0.txt").write_text("Another text.")
    assert memory.add(folder, user_id="ann").ids == done.ids[:1]
    assert memory.add(folder, user_id="ben").ids and memory.count(user_id="ben") == 6


def test_export_and_add_again(remembered, opened, towns, tmp_path: Path) -> None:
    assert remembered.export(tmp_path / "out") == 6
    rows = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows} == {town.id for town in towns}
    with pytest.raises(MemoryFolderError, match="lies in the memory"):
        remembered.export(tmp_path / "memory" / "out")
    with pytest.raises(ValueError, match="unknown form"):
        opened("copy", form="foo")
    copy = opened("copy")
    assert (
        set(copy.add(tmp_path / "out").ids) == {town.id for town in towns} and copy.count(user_id="ann") == 3
    )
    assert copy.get(towns[1].id).metadata == {"founded": towns[1].facts["founded"]}
    assert copy.ask(QUESTION, image_of(towns[0], view=1)).text == towns[0].value("stone")


def test_a_folder_is_opened_again_and_by_others_models(remembered, towns, opened, tmp_path: Path) -> None:
    remembered.close()
    again = opened()
    assert again.ask(QUESTION, image_of(towns[0], view=1)).text == towns[0].value("stone")
    with pytest.raises(MemoryFolderError, match="made with embedder 'toy'"):
        comem.Memory(tmp_path / "memory", embedder="ViT-L-14:openai")
    again._table.note({"encoder_fingerprint": "0" * 64})
    again._checked = False
    with pytest.raises(MemoryFolderError, match="another encoder"):
        again.add("x")


def test_one_writer(remembered, tmp_path: Path) -> None:
    second = comem.Memory(tmp_path / "memory")
    second.models = remembered.models
    assert len(second) == 6
    with pytest.raises(StorageError, match="in use by process"):
        second.add("x")
    remembered.close()
    assert second.add("x").id


def test_without_an_encoder_rag_answers(opened, towns, models) -> None:
    memory = opened("plain", encoder="none")
    memory.models = type(models)(models._backbone, "none", models.embedder)
    memory.add(f"{towns[0].name}: {towns[0].passage()}", image_of(towns[0], view=0))
    answer = memory.ask(QUESTION, image_of(towns[0], view=1))
    assert answer.mode == "rag" and answer.text == towns[0].value("stone")
    with pytest.raises(MemoryFolderError, match="keeps no embeddings"):
        memory.ask(QUESTION, image_of(towns[0], view=1), mode="comem")


def test_turns_come_before_the_question(remembered, towns) -> None:
    image, turns = (
        image_of(towns[0], view=1),
        (Message("user", ("Hello.",)), Message("assistant", ("Hello!",))),
    )
    asks = [
        Ask(QUESTION, image, turns=given, mode=mode)
        for mode in ("baseline", "rag", "comem")
        for given in ((), turns)
    ]
    lengths = [answer.prompt_tokens for answer in remembered.ask_many(asks)]
    assert all(longer > shorter for shorter, longer in zip(lengths[::2], lengths[1::2], strict=True))


def test_threads_and_coroutines(remembered, towns) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            town = towns[number]
            for _ in range(3):
                item_id = remembered.add(f"note {number}", user_id="cleo").id
                assert (
                    remembered.ask(QUESTION, image_of(town, view=1), attention=False).items[0].id == town.id
                )
                remembered.delete(item_id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(remembered) == 6

    async def both() -> None:
        memory = AsyncMemory(remembered)
        answers = await asyncio.gather(*(memory.ask(QUESTION, image_of(t, view=1)) for t in towns[:2]))
        assert [a.text for a in answers] == [t.value("stone") for t in towns[:2]]
        pieces = [piece async for piece in memory.stream(QUESTION, image_of(towns[0], view=1))]
        assert "".join(pieces) == towns[0].value("stone")
        item_id = (await memory.add("x")).id
        assert (await memory.search("x", k=1))[0].id == item_id
        await memory.delete(item_id)

    asyncio.run(both())


def test_questions_that_are_none(remembered) -> None:
    for options, message in (
        ({"question": " "}, "empty question"),
        ({"question": "x", "by": "image"}, "no image"),
        ({"question": "x", "by": "smell"}, "auto, image"),
        ({"question": "x", "max_tokens": 0}, "at least 1"),
        ({"question": "x", "image": ImageRef(data=b"nonsense")}, "not an image"),
        ({"question": 5}, "give a text"),
        ({"question": "x", "k": -1}, "k=-1"),
        ({"question": "x", "k": "3"}, "k='3'"),
        ({"question": "x", "max_tokens": 10**9}, "at most 65,536"),
        ({"question": "x", "temperature": float("nan")}, "temperature is nan"),
        ({"question": "x", "repetition_penalty": float("inf")}, "penalty is inf"),
        ({"question": "x", "seed": 2**70}, "64 bits"),
        ({"question": "x", "stop": ("",)}, "none of them empty"),
    ):
        with pytest.raises(ValueError, match=message):
            remembered.ask(**options)


def test_a_corpus_is_added_again_with_its_history(opened, towns, tmp_path: Path) -> None:
    """A table, and the folder that `comem corpus build` makes of it."""
    from comem.retrieval.corpus.build import build_corpus
    from comem.retrieval.corpus.sources import CorpusSettings

    table = tmp_path / "towns.jsonl"

    def write(passages: dict[int, str]) -> None:
        rows = []
        for n, town in enumerate(towns[:3]):
            (tmp_path / f"{n}.png").write_bytes(png(town, 0))
            rows.append({"id": town.id, "text": passages.get(n, town.passage()), "image": f"{n}.png"})
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write({})
    memory = opened()
    added = memory.add(table, user_id="ann")
    assert len(added.ids) == 3 and memory.add(table, user_id="ann").unchanged == 3
    answer = memory.ask(QUESTION, image_of(towns[1], view=1), user_id="ann", k=1)
    assert answer.text == towns[1].value("stone") and answer.items[0].metadata["file"] == towns[1].id
    write({1: towns[0].passage()})
    again = memory.add(table, user_id="ann")
    assert again.ids == added.ids[1:2] and again.unchanged == 2
    events = memory.history(again.id)
    assert [event["event"] for event in events] == ["ADD", "UPDATE"]
    assert (events[1]["old_memory"], events[1]["new_memory"]) == (towns[1].passage(), towns[0].passage())
    build_corpus(CorpusSettings(sources=(str(table),), output=tmp_path / "corpus"))
    corpus = opened("of_corpus")
    assert len(corpus.add(tmp_path / "corpus").ids) == 3
    assert corpus.ask(QUESTION, image_of(towns[2], view=1), k=1).text == towns[2].value("stone")

    async def again_awaited() -> None:
        shared = AsyncMemory(memory)
        assert (await shared.add(table, user_id="ann")).unchanged == 3

    asyncio.run(again_awaited())


def test_what_is_deleted_while_it_is_looked_for_leaves_no_gap(remembered, towns, monkeypatch) -> None:
    """Between the search and the reading of what it found another deletes: still as many come."""
    ids = [remembered.add(f"note {n}").id for n in range(3)]
    search, waiting = remembered._index.search, list(ids)

    def searched(*args, **options):
        found = search(*args, **options)
        if waiting:
            remembered._table.remove([waiting.pop()])
        return found

    monkeypatch.setattr(remembered._index, "search", searched)
    (hits,) = remembered._retrieve([Ask("note", mode="comem", k=3, by="text")])
    assert len(hits) == 3 and not waiting and not {hit.found.id for hit in hits} & set(ids)
    waiting[:] = [towns[0].id]
    assert len(remembered.search("note", k=3)) == 3


@pytest.mark.parametrize("who", ["embedder", "encoder"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 27.0])
def test_what_models_make_no_numbers_of_is_left_out(
    opened, towns, models, tmp_path: Path, monkeypatch, who: str, value: float
) -> None:
    """As an unreadable image: one named by itself is an error, in a folder it is skipped with the reason."""
    if who == "encoder" and value == 27.0:
        pytest.skip("memories have any length")
    folder = tmp_path / "texts"
    folder.mkdir()
    rows = [{"id": town.id, "text": town.name} for town in towns[:3]]
    (folder / "kb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    odd = towns[1].name
    memory = opened()
    if who == "embedder":
        texts = type(models.embedder).embed_texts

        def embed_texts(self, given, batch_size=256):
            made = texts(self, given, batch_size)
            return made * np.where([[each == odd] for each in given], np.float32(value), np.float32(1))

        monkeypatch.setattr(type(models.embedder), "embed_texts", embed_texts)
    else:
        encode = type(models.encoder).encode

        def encode_odd(self, items, *given):
            bank = encode(self, items, *given)
            for row, item in enumerate(items):
                bank.embeddings[row] *= value if item.text == odd else 1
            return bank

        monkeypatch.setattr(type(models.encoder), "encode", encode_odd)
    with pytest.raises(ValueError, match=f"the item '{odd}': its (vector|memory) has"):
        memory.add(odd)
    added = memory.add(folder / "kb.jsonl")
    assert len(added.ids) == 2 and len(added.skipped) == 1 and odd in added.skipped[0]
    if who == "embedder":
        with pytest.raises(ValueError, match="what is looked for: its vector has"):
            memory.search(odd)
    assert all(np.isfinite(hit.score) for hit in memory.search(towns[0].name))


def test_all_are_deleted_though_another_thread_deletes_one_meanwhile(remembered, monkeypatch) -> None:
    found = remembered._table.ids

    def and_one_goes(conditions, values) -> list[str]:
        monkeypatch.setattr(remembered._table, "ids", found)
        ids = found(conditions, values)
        remembered._table.remove(ids[:1])
        return ids

    monkeypatch.setattr(remembered._table, "ids", and_one_goes)
    assert remembered.delete_all(everything=True) == 5
    assert len(remembered) == 0 and remembered.check() == []
