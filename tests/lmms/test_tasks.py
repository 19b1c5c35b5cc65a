"""Our tasks inside lmms-eval 0.7.3: the same answers earn what `comem evaluate` gives them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.bem import Compared
from comem.benchmarks.scoring import ScoreFiles, read_predictions
from comem.cli import main
from comem.compat.bem import convert_bem
from comem.eval.results import headline
from comem.lmms.manifest import TASKS
from comem.toy.benchmark_files import FilesSettings, build_files
from tests.conftest import SHARED
from tests.lmms.conftest import call, needed, run_jobs

#: The tasks that are shipped, and whose files of the embedded world they are asked with.
NAMES = (
    "infoseek", "infoseek_bg", "infoseek_zh", "infoseek_pt", "infoseek_ru", "infoseek_es", "oven_entity",
    "oven_query", "mrag_bench", "okvqa", "aokvqa", "viquae", "cvqa", "evqa", "infoseek_filtered",
    "wikivqabench",
)  # fmt: skip
FORMS = (
    "{}",
    "Reasoning Process: it shows.\n\nFinal answer: \\boxed{{{}}}",
    "The answer is {}.",
    "({})",
    "x",
    "",
)
CASES = json.loads((Path(__file__).parents[1] / "benchmarks/official_cases.json").read_text(encoding="utf-8"))
GOLDEN = SHARED / "golden" / "scores"
BEM = Path(__file__).parents[1] / "benchmarks/bem"


def config(name: str) -> dict[str, Any]:
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!function", lambda _, node: node.value)
    found: dict[str, Any] = yaml.load((TASKS / f"{name}.yaml").read_text(), loader)
    return found


def test_every_task_names_its_benchmark_and_its_headline() -> None:
    assert {path.stem for path in TASKS.glob("*.yaml")} == set(NAMES)
    for name in NAMES:
        found, shown = config(name), headline(name)
        assert found["task"] == f"comem_{name}" and found["dataset_name"] == name
        assert [row["metric"] for row in found["metric_list"]] == list(shown)
        assert found["score_key"] == shown[0]
        for row in found["metric_list"]:
            assert row["aggregation"] == f"comem.lmms.tasks.{row['metric']}"


def loaded(name: str, place: Mapping[str, str]) -> list[Any]:
    return list(
        BENCHMARKS[name].load(
            place["data"], image_folder=place.get("images") or None,
            question_types=place.get("question_types") or None,
        )
    )  # fmt: skip


def answers_to(examples: list[Any]) -> dict[str, str]:
    """Right ones, boxed ones, named options, wrong ones and nothing, in turn."""
    said = {}
    for number, example in enumerate(examples):
        right = example.answers[0]
        if example.choices and number % 3 == 0:
            at = example.choices.index(right) if right in example.choices else 0
            right = str(at + 1) if example.language != "en" else "ABCD"[at]
        said[example.id] = FORMS[number % len(FORMS)].format(right)
    return said


def expected(
    name: str, examples: list[Any], said: Mapping[str, str], judge: Path | None = None
) -> dict[str, float]:
    outputs = {example.id: said.get(example.id, "") for example in examples}
    metrics = BENCHMARKS[name].score(outputs, examples, "bem" if judge else "official", judge=judge).metrics
    shown = headline(name) if judge else BENCHMARKS[name].headline
    found = {key: metrics.get(key) for key in shown}
    return {key: value["score"] if isinstance(value, Mapping) else value for key, value in found.items()}


def same(found: Mapping[str, Any], wanted: Mapping[str, float | None]) -> None:
    for key, value in wanted.items():
        got = found[f"{key},none"]
        assert got == value if value is not None else math.isnan(float(got)), (key, got, value)


def place_of(world: Path, name: str) -> dict[str, str]:
    folder = world / name
    folder = folder if folder.is_dir() else world / name.rpartition("_")[0]
    place = {"data": str(folder), "images": str(world / "images")}
    if name.startswith("infoseek"):
        place["question_types"] = str(folder / "infoseek_val_qtype.jsonl")
    return place


def hostile(folder: Path) -> dict[str, tuple[str, dict[str, str], dict[str, str]]]:
    """By a task's name: the benchmark, its place and the answers of our scorers' cases."""
    found: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {}

    def put(task: str, name: str, file: str, rows: list[Any], said: list[str]) -> None:
        (folder / task).mkdir()
        data = folder / task / file
        text = json.dumps(rows) if file.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
        data.write_text(text)
        place = {"data": str(data), "images": "none"}
        examples = loaded(name, {"data": str(data)})
        found[task] = name, place, dict(zip([each.id for each in examples], said, strict=True))

    rows = [
        {"id": f"v{n}", "input": "?", "output": {"answer": case[1]}} for n, case in enumerate(CASES["squad"])
    ]
    put("cases_viquae", "viquae", "test.jsonl", rows, [case[0] for case in CASES["squad"]])
    rows = [
        {
            "data_id": f"n{n}", "question": "?", "answer_eval": [{"range": case[2]}],
            "question_type": "Numerical", "data_split": f"val_unseen_{('question', 'entity')[n % 2]}",
        }
        for n, case in enumerate(CASES["numbers"])
    ]  # fmt: skip
    put("cases_infoseek", "infoseek", "infoseek_val.jsonl", rows, [case[0] for case in CASES["numbers"]])
    if GOLDEN.is_dir():
        for name, more in (("infoseek", {"question_types": "question_types.jsonl"}), ("viquae", {})):
            place = {"data": str(GOLDEN / name / "references.jsonl"), "images": "none"}
            place |= {key: str(GOLDEN / name / file) for key, file in more.items()}
            said = read_predictions(GOLDEN / name / "predictions.jsonl", whole=True)
            found[f"golden_{name}"] = name, place, said
        for part in ("entity", "query"):
            place = {"data": str(GOLDEN / "oven" / f"references_{part}.jsonl"), "images": "none"}
            said = read_predictions(GOLDEN / "oven" / f"predictions_{part}.jsonl", whole=True)
            found[f"golden_oven_{part}"] = f"oven_{part}", place, said
    return found


@needed
def test_equal_scores_inside_lmms_eval(tmp_path: Path) -> None:
    world, cases, logs = tmp_path / "world", tmp_path / "cases", tmp_path / "logs"
    build_files(FilesSettings(world, size=40, questions=6, image_size=28))
    cases.mkdir()
    logs.mkdir()
    row = json.loads((BEM / "golden.json").read_text(encoding="utf-8"))[0]
    judged = [row[key] for key in ("question", "reference", "candidate", "score")]
    convert_bem(BEM, world / "evqa/bem", str(BEM), (Compared(*judged[:3]), judged[3]))
    examples = {name: loaded(name, place_of(world, name)) for name in NAMES}
    said = {name: answers_to(examples[name]) for name in NAMES}
    own = hostile(cases)
    exact = place_of(world, "evqa") | {"scorer": "official"}  # without BEM, where that is asked for
    own["exact_evqa"] = "evqa", exact, said["evqa"]
    for task, (name, place, _) in own.items():  # a task of one's own: ours, its place in a file
        (cases / f"{task}.json").write_text(json.dumps(place))
        kwargs = {"data_files": {"test": str(cases / f"{task}.json")}}
        lines = {"include": str(TASKS / f"{name}.yaml"), "task": task, "dataset_kwargs": kwargs}
        (cases / f"{task}.yaml").write_text(yaml.safe_dump(lines))
    jobs: dict[str, dict[str, Any]] = {
        "chat": {
            "model": "fixed", "tasks": [f"comem_{name}" for name in NAMES], "samples": str(logs),
            "answers": {f"comem_{name}": said[name] for name in NAMES},
        },
        "simple": {
            "model": "fixed_simple", "tasks": ["comem_infoseek", "comem_mrag_bench"],
            "answers": {f"comem_{name}": said[name] for name in ("infoseek", "mrag_bench")},
        },
        "cases": {
            "model": "fixed", "tasks": list(own), "answers": {task: row[2] for task, row in own.items()},
            "include": [str(cases)],
        },
    }  # fmt: skip
    out = run_jobs(tmp_path, jobs, COMEM_DATA=str(world))
    assert not [out[job]["error"] for job in jobs if "error" in out[job]], out["said"][-3000:]
    for name in NAMES:
        wanted = expected(name, examples[name], said[name], world / "evqa/bem" if name == "evqa" else None)
        same(out["chat"]["results"][f"comem_{name}"], wanted)
        assert any(value not in (0, 100, None) for value in wanted.values()), name  # it tells answers apart
        seen = out["chat"]["seen"][f"comem_{name}"]
        asked = [[each.id, BENCHMARKS[name].ask(each, False)] for each in examples[name]]
        assert [row[:2] for row in seen] == asked
        assert all(sizes == [[28, 28]] for _, _, sizes in seen)
    for name in ("infoseek", "mrag_bench"):
        assert out["simple"]["results"][f"comem_{name}"] == out["chat"]["results"][f"comem_{name}"]
        assert out["simple"]["seen"][f"comem_{name}"] == out["chat"]["seen"][f"comem_{name}"]
    for task, (name, place, given) in own.items():
        wanted = expected(name, loaded(name, place | {"images": ""}), given)
        same(
            out["cases"]["results"][task], {key: value for key, value in wanted.items() if value is not None}
        )
    for name, references in (("viquae", world / "viquae/test.jsonl"), ("infoseek", None), ("aokvqa", None)):
        log = {"": logs / f"comem_{name}.jsonl"}  # a log of samples is a file of predictions
        other = {"infoseek": "infoseek/infoseek_val.jsonl", "aokvqa": "references/aokvqa.json"}
        files = ScoreFiles(log, {"": references or world / other[name]})
        metrics = BENCHMARKS[name].score_files(files).metrics
        for key in BENCHMARKS[name].headline:
            value = metrics[key]["score"] if isinstance(metrics[key], Mapping) else metrics[key]
            assert value == out["chat"]["results"][f"comem_{name}"][f"{key},none"]
    titles = world / "oven/Wiki6M_ver_1_0_title_only.jsonl"  # and OVEN's official score is made of logs
    assert main(["oven", "index", "--titles", str(titles), "--output", str(tmp_path / "titles")]) == 0
    words = ["evaluate", "oven", "--output", str(tmp_path / "oven.json")]
    for part in ("query", "entity"):
        log, linked = logs / f"comem_oven_{part}.jsonl", tmp_path / f"{part}.jsonl"
        link = ["oven", "link", "--index", str(tmp_path / "titles")]
        assert main([*link, "--predictions", str(log), "--output", str(linked)]) == 0
        words += [f"--predictions-{part}", str(linked)]
        words += [f"--references-{part}", str(world / f"oven/oven_{part}_val.jsonl")]
    assert main(words) == 0
    assert json.loads((tmp_path / "oven.json").read_text())["answered"] == 12


@needed
def test_missing_files_are_named(tmp_path: Path) -> None:
    world = tmp_path / "world"
    (world / "infoseek").mkdir(parents=True)
    (world / "viquae").mkdir()
    build_files(FilesSettings(tmp_path / "asked", size=40, questions=1, image_size=28))
    shutil.copytree(tmp_path / "asked/evqa", world / "evqa")
    (world / "evqa/images").symlink_to(tmp_path / "asked/images")
    row = {"id": "a", "input": "Who?", "image": "a.jpg", "output": {"answer": ["x"]}}
    (world / "viquae/test.jsonl").write_text(json.dumps(row) + "\n")
    jobs = {
        name: {"model": "fixed", "answers": {}, "tasks": [f"comem_{name}"]}
        for name in ("infoseek", "viquae", "evqa", "okvqa")
    }
    out = run_jobs(tmp_path, jobs, COMEM_DATA=str(world))
    assert "holds none of infoseek_val.jsonl" in out["infoseek"]["error"]
    assert "have no picture" in out["viquae"]["error"] and "--images" in out["viquae"]["error"]
    assert "has no okvqa: put its files there" in out["okvqa"]["error"]
    assert "the scorer bem asks BEM" in out["evqa"]["error"] and "--judge DIR" in out["evqa"]["error"]


@needed
def test_tasks_come_by_the_entry_point(tmp_path: Path) -> None:
    """Without --include_path; and LMMS_EVAL_PLUGINS, which 0.7.3 reads too late for tasks, does no harm."""
    words = "import lmms_eval.evaluator; from lmms_eval.tasks import TaskManager as T\n"
    words += (
        "print(T(include_defaults=False).all_subtasks, T(include_path='.', include_defaults=False).all_tags)"
    )
    done = call(tmp_path, "-c", words, LMMS_EVAL_PLUGINS="comem.lmms")
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(f"'comem_{name}'" in done.stdout for name in NAMES)
    assert "comem_knowledge" in done.stdout.splitlines()[-1].partition("]")[2]
