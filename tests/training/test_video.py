"""A video memory's stages: what learns, files, labels, resuming, merging, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import comem
from comem.io.files import RecordError
from comem.io.video import write_video
from comem.memory.video.settings import VideoMemorySettings
from comem.modes import MODES
from comem.training.merge import merge
from comem.training.run import train
from comem.training.settings import (
    LoraSettings,
    MergeSettings,
    OptimSettings,
    TrainSettings,
    VideoStageSettings,
)
from comem.training.video import build_run, load_video_examples
from comem.types import Example, VideoRef
from tests.memory.video.conftest import frames_of, make_reader

MEMORY, READER, ADAPTER = "memory.safetensors", "reader.safetensors", "adapter.safetensors"
SIZES = VideoMemorySettings(slots=2, heads=2, segment=4, kept=3, layers=1, fill="tail")


def record(name: str, video: str, *turns: str) -> dict[str, Any]:
    said = [{"from": ("human", "gpt")[at % 2], "value": turn} for at, turn in enumerate(turns)]
    return {"id": name, "conversations": said, "data_source": "made", "video": video}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("videos")
    reader = make_reader()
    reader.model.save_pretrained(folder / "model")
    reader.processor.save_pretrained(folder / "model")
    (folder / "films").mkdir()
    records = []
    for number in range(4):
        write_video(folder / "films" / f"{number}.mkv", list(frames_of(5 + 2 * number, number)))
        turns = ["<image>\nWhat is seen?", f"thing {number}", "And then?", "nothing"][: 2 + 2 * (number % 2)]
        records.append(record(f"q{number}", f"films/{number}.mkv", *turns))
    (folder / "list.json").write_text(json.dumps(records))
    return folder


@pytest.fixture()
def settings(data: Path, tmp_path: Path) -> Callable[..., TrainSettings]:
    def make(output: str = "run", staging: str = "readme", stage: int = 1, **changes: Any) -> TrainSettings:
        own = {name: changes.pop(name) for name in list(changes) if name in _STAGE}
        base = TrainSettings(
            model=str(data / "model"), data=str(data / "list.json"), output=str(tmp_path / output),
            encoder="video_memory", video=SIZES, batch_size=2, micro_batch_size=1, epochs=10, max_steps=4,
            save_every=2, precision="fp32", tensorboard=False, optim=OptimSettings(lr=5e-3, reader_lr=1e-3),
            video_stage=VideoStageSettings(staging, stage, **own),  # type: ignore[arg-type]
        )  # fmt: skip
        return replace(base, **changes)

    return make


_STAGE = VideoStageSettings.__dataclass_fields__


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def differing(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_two_stages_of_the_readme_and_a_model_that_answers(
    settings: Callable[..., TrainSettings], data: Path, tmp_path: Path
) -> None:
    start = comem.load_backbone(data / "model", device="cpu").model.state_dict()
    one = train(settings("one", checkpointing=True))
    assert not (one.checkpoint / READER).exists() and not (one.checkpoint / ADAPTER).exists()
    first = load_file(one.checkpoint / MEMORY)
    two = train(settings("two", stage=2, init=str(one.checkpoint), eval_data=str(data / "list.json")))
    assert differing(first, load_file(two.checkpoint / MEMORY))
    reader = load_file(two.checkpoint / READER)
    moved = {name for name, value in reader.items() if not torch.equal(value, start[name])}
    assert "model.language_model.layers.0.mlp.up_proj.weight" in moved and "model.image_newline" in moved
    assert not any("vision_tower" in name or "projector" in name for name in reader)
    assert set(two.metrics) == {"eval_loss", "eval_accuracy", "eval_examples"}
    merge(MergeSettings(two.folder, tmp_path / "merged"))
    backbone = comem.load_backbone(tmp_path / "merged", device="cpu")
    mode = MODES["video_memory"](backbone, encoder=comem.load_encoder(tmp_path / "merged", backbone))
    asked = Example("q", "What is seen?", None, video=VideoRef(str(data / "films" / "1.mkv")))
    assert len(mode.answer_batch([asked], [None])) == 1


def test_what_is_taught_is_what_is_asked(settings: Callable[..., TrainSettings], data: Path) -> None:
    """The rows of training begin as the mode's own prompt does, and the loss falls."""
    run = build_run(settings(), lambda name: comem.load_backbone(name, device="cpu"))
    example = load_video_examples(data / "list.json")[0]
    mode = MODES["video_memory"](run.backbone, encoder=run.model.encoder)
    asked = Example("q", example.turns[0][0], None, video=example.video)
    prompt = run.backbone.process(mode.conversations([asked], [None]))["input_ids"][0].tolist()
    batch = run.collator([example])
    ids, labels = batch.question["input_ids"][0].tolist(), batch.question["labels"][0]
    assert ids[: len(prompt)] == prompt
    first = int((labels != -100).nonzero()[0])
    assert first == len(prompt)
    fast = OptimSettings(lr=1e-2, reader_lr=1e-2)
    taught = train(settings(staging="scripts", stage=2, max_steps=8, save_every=0, optim=fast))
    losses = [row["loss"] for row in rows(taught.folder)]
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(("staging", "tune"), [("scripts", ""), ("readme", "lora")])
def test_a_killed_run_goes_on_exactly(
    settings: Callable[..., TrainSettings], tmp_path: Path, staging: str, tune: str
) -> None:
    """Frame dropout is on: its draws, too, are a function of the step."""
    changes = {"staging": staging, "tune": tune, "lora": LoraSettings(2, 4, 0.1)}
    whole = train(settings("whole", **changes))
    other = tmp_path / "other"
    shutil.copytree(whole.folder, other)
    shutil.rmtree(other / "checkpoints" / "step-00000004")
    train(settings("other", **changes))
    assert [row["loss"] for row in rows(other)] == [row["loss"] for row in rows(whole.folder)]
    files = {MEMORY, ADAPTER if tune else READER, "optimizer.safetensors"}
    assert {path.name for path in whole.checkpoint.glob("*.safetensors")} == files
    for name in files:
        mine = load_file(other / "checkpoints" / "step-00000004" / name)
        assert not differing(load_file(whole.checkpoint / name), mine)


def test_a_language_model_learns_at_its_own_rate(settings: Callable[..., TrainSettings]) -> None:
    from comem.training.schedule import parameter_groups

    run = build_run(settings(staging="scripts"), lambda name: comem.load_backbone(name, device="cpu"))
    groups = parameter_groups(run.model.named_parameters(), settings().optim)
    rates = {name: group["base_lr"] for group in groups for name in group["names"]}  # type: ignore[attr-defined]
    assert rates["encoder.memory.initial"] == 5e-3
    assert rates["encoder.model.model.language_model.embed_tokens.weight"] == 1e-3
    assert not any("vision_tower" in name for name in rates)


@pytest.mark.parametrize(
    ("staging", "stage", "trains", "dropout"),
    [
        ("readme", 1, "memory", 0.5), ("readme", 2, "full", 0),
        ("scripts", 1, "full", 0.5), ("scripts", 2, "full", 0),
    ],
)  # fmt: skip
def test_stagings(staging: Any, stage: Any, trains: str, dropout: float) -> None:
    found = VideoStageSettings(staging, stage)
    assert (found.trains, found.drops(SIZES)) == (trains, dropout)
    assert found.drops(replace(SIZES, frame_dropout=0.2)) == 0.2
    assert replace(found, frame_dropout=0.0).drops(SIZES) == 0
    assert VideoStageSettings(staging, stage, tune="lora").trains == "lora"
    for wrong in ({"staging": "x"}, {"stage": 3}, {"tune": "x"}):
        with pytest.raises(ValueError, match="video_stage"):
            VideoStageSettings(**wrong)


def test_frames_are_dropped_in_about_half_of_the_steps(
    settings: Callable[..., TrainSettings], data: Path
) -> None:
    run = build_run(settings(), lambda name: comem.load_backbone(name, device="cpu"))
    batch = run.collator(load_video_examples(data / "list.json")[:1])
    run.model.train()
    lengths = [len(run.model.prefixes(batch.items, batch.rows)[0]) for _ in range(40)]  # type: ignore[arg-type]
    assert len(set(lengths)) == 2 and 10 <= lengths.count(min(lengths)) <= 30
    run.model.eval()
    assert {len(run.model.prefixes(batch.items, batch.rows)[0]) for _ in range(8)} == {max(lengths)}  # type: ignore[arg-type]


def test_labels_with_all_marks(settings: Callable[..., TrainSettings], data: Path) -> None:
    examples = load_video_examples(data / "list.json")[1:2]
    found = {}
    for every in (False, True):
        run = build_run(settings(all_marks=every), lambda name: comem.load_backbone(name, device="cpu"))
        question = run.collator(examples).question
        found[every] = question["labels"][0]
    ids, tokenizer = question["input_ids"][0], run.backbone.process.tokenizer
    more = set(ids[(found[True] != -100) & (found[False] == -100)].tolist())
    marks = {tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_start|>", "<|im_end|>")}
    assert marks & more and more <= marks | set(tokenizer("\n", add_special_tokens=False)["input_ids"])
    assert torch.equal(found[True][found[False] != -100], ids[found[False] != -100])


def test_a_mixture_its_folder_and_a_video_that_cannot_be_read(
    settings: Callable[..., TrainSettings], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "more.json").write_text(
        json.dumps([record("q0", "films/gone.mkv", "<image>\nWhat?", "that")] * 3)
    )
    (tmp_path / "mix.yaml").write_text(
        f"datasets:\n  - {{json_path: {data / 'list.json'}, sampling_strategy: 'first:50%'}}\n"
        "  - {json_path: more.json, sampling_strategy: 'end:1'}\n"
    )
    found = load_video_examples(tmp_path / "mix.yaml", data)
    assert [example.id for example in found] == ["q0", "q1", "q0/more/1"]
    assert found[1].turns == (("What is seen?", "thing 1"), ("And then?", "nothing"))
    stage = {"data": str(tmp_path / "mix.yaml"), "videos": str(data), "max_steps": 2, "batch_size": 3}
    with caplog.at_level(logging.WARNING):
        run = train(settings(**stage))
    assert "skipped (1 so far): question q0/more/1" in caplog.text and "gone.mkv" in caplog.text
    (tmp_path / "more.json").write_text("[]")
    shutil.rmtree(run.checkpoint)
    (run.folder / "checkpoints" / "step-00000001").mkdir()
    (run.folder / "checkpoints" / "step-00000001" / "state.json").write_text('{"step": 1, "elapsed": 1}')
    with pytest.raises(ValueError, match=r"more\.json has changed since the run"):
        train(settings(**stage))


def test_what_is_refused(settings: Callable[..., TrainSettings], data: Path, tmp_path: Path) -> None:
    lora = train(settings("lora", tune="lora", max_steps=1))
    with pytest.raises(ValueError, match=r"holds LoRA beside the memory, which this stage \(full\)"):
        train(settings("next", stage=2, init=str(lora.checkpoint)))
    with pytest.raises(ValueError, match="leave reader empty"):
        train(settings("other", reader=str(data / "model")))
    with pytest.raises(ValueError, match="no plan is made"):
        comem.training.plan.make_plan(settings())  # type: ignore[attr-defined]
    bad = tmp_path / "bad.json"
    for broken, why in (
        (record("a", "a.mkv", "no mark", "x"), "stands 0 times"),
        (record("a", "a.mkv", "<image>\nWhat?", "x", "left over"), "alternate"),
        ({"id": "a", "conversations": []}, "needs video and conversations"),
    ):
        bad.write_text(json.dumps([broken]))
        with pytest.raises(RecordError, match=f"bad.json record 1: .*{why}"):
            load_video_examples(bad)
    (tmp_path / "mix.yaml").write_text("datasets: 3\n")
    with pytest.raises(RecordError, match=r"mix\.yaml: no mixture"):
        load_video_examples(tmp_path / "mix.yaml")
