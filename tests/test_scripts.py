"""The bash entry points: they parse, explain themselves, hand their arguments on, and pass exit codes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*ROOT.glob("scripts/**/*.sh"), ROOT / ".ci" / "run"])
RUNNABLE = [path for path in SCRIPTS if not path.name.startswith("_")]
INFERENCE = {
    "run_baseline_inference.sh": "baseline",
    "run_rag_inference.sh": "rag",
    "run_CoMEM_inference.sh": "comem",
    "run_hybrid_inference.sh": "hybrid",
}


def bash(*words: object, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run bash with a clean environment."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8", **env}
    return subprocess.run(
        ["bash", *map(str, words)], cwd=cwd, env=clean, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_parses(path: Path) -> None:
    assert bash("-n", path).returncode == 0


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.name)
def test_is_executable_strict_and_explained(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in text
    assert text.splitlines()[1].startswith("# ")


HELPFUL = ("inference", "data", "train", "reproduce")


@pytest.mark.parametrize("path", [p for p in RUNNABLE if p.parent.name in HELPFUL], ids=lambda p: p.name)
def test_help_is_the_header(path: Path) -> None:
    shown = bash(path, "--help")
    assert shown.returncode == 0
    assert (
        f"Usage: bash scripts/{path.parent.name}/{path.name}" in shown.stdout and "Example: " in shown.stdout
    )
    assert "set -euo" not in shown.stdout


@pytest.mark.parametrize("path", [p for p in RUNNABLE if p.suffix == ".sh"], ids=lambda path: path.name)
def test_every_script_explains_itself_and_does_nothing_else(path: Path, tmp_path: Path) -> None:
    """In a copy without an environment, where any work would fail."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    place = path.relative_to(ROOT)
    shown = bash(place, "--help", cwd=tmp_path)
    assert shown.returncode == 0 and f"bash {place}" in shown.stdout and "set -e" not in shown.stdout
    assert [each.name for each in tmp_path.iterdir()] == ["scripts"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the scripts whose `.venv/bin/comem` prints its arguments, one a line."""
    for part in ("scripts", ".ci"):
        shutil.copytree(ROOT / part, tmp_path / part)
    for name in ("comem", "ruff", "mypy", "codespell", "python", "accelerate"):
        tool = tmp_path / ".venv" / "bin" / name
        tool.parent.mkdir(parents=True, exist_ok=True)
        code = f"${{{name.upper()}_CODE:-0}}"
        tool.write_text(f'#!/bin/bash\necho "{name}"\nprintf "%s\\n" "$@"\nexit "{code}"\n')
        tool.chmod(0o755)
    (tmp_path / "scripts" / "setup.sh").write_text("echo setup\n")
    return tmp_path


@pytest.mark.parametrize("name", INFERENCE)
def test_inference_takes_real_names(project: Path, name: str) -> None:
    ran = bash(
        f"scripts/inference/{name}", "--limit", "5", "--prompt", "two words", cwd=project,
        MODEL="Qwen/Qwen2.5-VL-7B-Instruct", BENCHMARK="infoseek", DATA="my data.jsonl", INDEX="wit", K="5",
        ENCODER="enc", OUTPUT="runs/x", BUDGET="300",
    )  # fmt: skip
    words = ran.stdout.splitlines()
    assert ran.returncode == 0 and words[:2] == ["comem", "predict"]
    options = dict(zip(words[2:], words[3:], strict=False))
    assert options["--mode"] == INFERENCE[name] and options["--model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert options["--data"] == "my data.jsonl" and options["--prompt"] == "two words"
    assert ("--index" in options) == (name != "run_baseline_inference.sh")
    assert options.get("--encoder") == ("enc" if INFERENCE[name] in ("comem", "hybrid") else None)
    assert options.get("--budget") == ("300" if "hybrid" in name else None)


def test_inference_makes_the_embedded_world_when_no_data_is_named(project: Path) -> None:
    ran = bash("scripts/inference/run_CoMEM_inference.sh", cwd=project)
    assert "toy\nbuild\ndata/toy" in ran.stdout and "index\nbuild" in ran.stdout
    assert "--encoder\ntoy" in ran.stdout and "data/toy/test.jsonl" in ran.stdout


NEED_COMEM = [
    "inference/run_rag_inference.sh", "inference/run_multilingual_rag_inference.sh",
    "evaluation/eval_okvqa.sh", "evaluation/eval_oven.sh", "train/finetune_lora_vision_vlm.sh",
    "train/merge_lora.sh",
]  # fmt: skip


@pytest.mark.parametrize("name", NEED_COMEM)
def test_before_setup_it_says_what_to_run(project: Path, name: str) -> None:
    (project / ".venv" / "bin" / "comem").unlink()
    ran = bash(f"scripts/{name}", cwd=project, PATH="/usr/bin:/bin")
    said = f"{Path(name).name}: comem is not installed yet; first run: bash scripts/setup.sh\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (127, "", said)
    assert bash(f"scripts/{name}", "--help", cwd=project, PATH="/usr/bin:/bin").returncode == 0


@pytest.mark.parametrize(("name", "mode"), [("baseline", "baseline"), ("rag", "rag"), ("CoMEM", "comem")])
def test_multilingual_inference_runs_every_translation_and_cvqa(project: Path, name: str, mode: str) -> None:
    script = f"scripts/inference/run_multilingual_{name}_inference.sh"
    ran = bash(
        script, "--limit", "5", cwd=project,
        DATA="my data", IMAGES="oven", INDEX="wit", ENCODER="enc", CONTEXTS="found", OUTPUT="out", MODEL="m",
    )  # fmt: skip
    runs = [text.split("\n") for text in ran.stdout.split("comem\npredict\n")[1:]]
    found = [dict(zip(words, words[1:], strict=False)) for words in runs]
    languages = ("bg", "zh", "pt", "ru", "es")
    assert ran.returncode == 0
    assert [each["--benchmark"] for each in found] == [*(f"infoseek_{code}" for code in languages), "cvqa"]
    assert all(each["--mode"] == mode and each["--limit"] == "5" for each in found)
    assert [each.get("--data") for each in found] == ["my data"] * 5 + [None], "CVQA comes from the hub"
    assert [each["--output"] for each in found] == [f"out/{each['--benchmark']}" for each in found]
    if mode != "baseline":
        assert found[4]["--contexts"] == "found/infoseek_es.jsonl" and "--languages" not in found[4]


def test_multilingual_inference_on_the_embedded_world(project: Path) -> None:
    ran = bash("scripts/inference/run_multilingual_rag_inference.sh", cwd=project)
    assert "toy\nbenchmarks\ndata/benchmarks" in ran.stdout and "index\nbuild" in ran.stdout
    assert "--data\ndata/benchmarks/infoseek" in ran.stdout and "--data\ndata/benchmarks/cvqa" in ran.stdout
    assert ran.stdout.count("--prompt\nbare") == ran.stdout.count("--languages\nown") == 6
    failed = bash(
        "scripts/inference/run_multilingual_rag_inference.sh", cwd=project, DATA="x", COMEM_CODE="3"
    )
    assert failed.returncode != 0


SCORED = (
    "infoseek infoseek_filtered mrag_bench okvqa aokvqa viquae cvqa evqa wikivqabench mmmu mathvista "
    "coco_caption"
)


@pytest.mark.parametrize("name", SCORED.split())
def test_evaluation_takes_files_or_the_embedded_world(project: Path, name: str) -> None:
    script = f"scripts/evaluation/eval_{name}.sh"
    ran = bash(script, "--output", "x.json", cwd=project, PREDICTIONS="p q.jsonl", REFERENCES="r.json")
    words = ["comem", "evaluate", name, "--predictions", "p q.jsonl", "--references", "r.json"]
    assert ran.returncode == 0 and ran.stdout.splitlines()[: len(words)] == words
    assert ran.stdout.splitlines()[-2:] == ["--output", "x.json"]
    ran = bash(script, cwd=project)
    assert f"predict\n--benchmark\n{name}\n" in ran.stdout and "--mode\nbaseline" in ran.stdout
    assert f"--predictions\nruns/evaluation/{name}/predictions.jsonl" in ran.stdout


def test_evqas_evaluation_asks_bem_where_it_has_its_weights(project: Path) -> None:
    files = {"PREDICTIONS": "p.jsonl", "REFERENCES": "test.csv"}
    ran = bash("scripts/evaluation/eval_evqa.sh", cwd=project, **files, JUDGE="my bem")
    assert ran.stdout.splitlines()[-4:] == ["--scorer", "bem", "--judge", "my bem"]
    assert "--scorer" not in bash("scripts/evaluation/eval_evqa.sh", cwd=project, **files).stdout


def test_every_row_that_is_scored_has_a_script() -> None:
    from comem.benchmarks import BENCHMARKS

    scripts = {path.stem.removeprefix("eval_") for path in ROOT.glob("scripts/evaluation/eval_*.sh")}
    parts = {"oven_entity": "oven", "oven_query": "oven"} | {
        name: "infoseek"
        for name in BENCHMARKS
        if name.startswith("infoseek_") and name != "infoseek_filtered"
    }
    own = {"own", "flags", "toy"}
    own |= {"llava_video", "longvideobench", "videomme", "mlvu", "nextqa", "egoschema"}
    assert scripts == {parts.get(name, name) for name in BENCHMARKS if name not in own}


def test_ovens_evaluation_links_first(project: Path) -> None:
    files = {"QUERY": "q", "ENTITY": "e", "REFERENCES_QUERY": "rq", "REFERENCES_ENTITY": "re"}
    ran = bash("scripts/evaluation/eval_oven.sh", cwd=project, **files, TITLES="wiki")
    assert ran.returncode == 0 and ran.stdout.count("oven\nlink\n--index\nwiki") == 2
    assert ran.stdout.rstrip().endswith("--references-entity\nre")
    ran = bash("scripts/evaluation/eval_oven.sh", cwd=project, **files)
    assert ran.returncode == 2 and "TITLES is missing" in ran.stderr


@pytest.mark.parametrize("path", [p for p in RUNNABLE if p.parent.name == "evaluation"], ids=lambda p: p.name)
def test_evaluation_help_is_the_header(path: Path) -> None:
    shown = bash(path, "--help")
    assert shown.returncode == 0 and f"Usage: bash scripts/evaluation/{path.name}" in shown.stdout


def test_training_takes_real_names(project: Path) -> None:
    ran = bash(
        "scripts/train/finetune_lora_vision_vlm.sh", "max_items=2", "--dry-run", cwd=project,
        MODEL="Qwen/Qwen2.5-VL-3B-Instruct", READER="my models/7b", DATA="my data.jsonl", OUTPUT="runs/x",
    )  # fmt: skip
    words = ran.stdout.splitlines()
    assert ran.returncode == 0 and words[:3] == ["comem", "train", "--config"]
    assert words[3].endswith("/configs/train/paper.yaml")
    assert words[4:] == [
        "model=Qwen/Qwen2.5-VL-3B-Instruct", "data=my data.jsonl", "output=runs/x", "reader=my models/7b",
        "max_items=2", "--dry-run",
    ]  # fmt: skip


@pytest.mark.parametrize("reader", ["vlm", "llm"])
def test_training_on_several_gpus(project: Path, reader: str) -> None:
    names = {"MODEL": "m", "DATA": "d.jsonl", "ACCELERATE_CONFIG": "my fsdp2.yaml"}
    script = f"scripts/train/finetune_lora_vision_{reader}.sh"
    ran = bash(script, "max_items=2", cwd=project, GPUS="4", **names)
    words = ran.stdout.splitlines()
    assert words[:6] == ["accelerate", "launch", "--config_file", "my fsdp2.yaml", "--num_processes", "4"]
    assert words[6:10] == ["-m", "comem", "train", "--config"] and words[-1] == "max_items=2"
    assert "--num_processes" not in bash(script, cwd=project, **names).stdout
    assert bash(script, "--dry-run", cwd=project, **names).stdout.startswith("comem\ntrain"), (
        "one plan is enough"
    )


def test_training_makes_the_embedded_world_when_no_data_is_named(project: Path) -> None:
    ran = bash("scripts/train/finetune_lora_vision_vlm.sh", cwd=project)
    words = ran.stdout.splitlines()
    assert words[:6] == ["comem", "toy", "dialogues", "data/toy-dialogues", "--entities", "400"]
    assert words[6:8] == ["comem", "train"] and words[9].endswith("/configs/train/toy.yaml")
    assert words[10:] == ["model=toy", "data=data/toy-dialogues/dialogues.jsonl", "output=runs/train"]


def test_training_of_a_video_memory_in_two_stages(project: Path) -> None:
    names = {"MODEL": "models/tiny", "DATA": "mix.yaml", "VIDEOS": "films", "STAGING": "scripts"}
    refused = bash("scripts/train/finetune_video_long.sh", cwd=project, **names)
    assert refused.returncode == 2 and "run finetune_video_short.sh" in refused.stderr
    given = ["model=models/tiny", "data=mix.yaml", "video_stage.videos=films", "video_stage.staging=scripts"]
    for number, name in enumerate(("short", "long")):
        ran = bash(f"scripts/train/finetune_video_{name}.sh", "max_steps=3", cwd=project, **names)
        told = ran.stdout.split()
        assert set(told) >= {*given, f"output=runs/video-{name}", "max_steps=3"}
        assert ("init=runs/video-short/checkpoints/step-00000020" in told) == bool(number)
        for step in (3, 20):
            (project / f"runs/video-short/checkpoints/step-{step:08d}").mkdir(parents=True, exist_ok=True)
    ran = bash("scripts/train/finetune_video_short.sh", cwd=project)
    assert (
        "toy\nvideos\ndata/toy-videos\n" in ran.stdout and "data=data/toy-videos/questions.json" in ran.stdout
    )


def test_video_inference_trains_asks_and_measures_or_takes_real_names(project: Path) -> None:
    (project / "runs" / "v").mkdir(parents=True)
    script, folder = "scripts/inference/run_video_inference.sh", "runs/v"
    ran = bash(script, folder, "3", cwd=project, SHORT="0.1", LENGTHS="8 64", CLIPS="2")
    told = ran.stdout.replace("\n", " ")
    assert ran.returncode == 0
    parts = [
        "tools/video_world.py train runs/v --seed 3 --short 0.1 --world shapes",
        "comem toy videos runs/v/clips",
        "comem predict --benchmark llava_video --data runs/v/clips --mode video_memory --model runs/v/model "
        "--encoder runs/v/memory",
        "tools/video_world.py measure runs/v --world shapes --clips 2 --lengths 8 64",
    ]
    places = [told.index(part) for part in parts]
    assert places == sorted(places)
    (project / "mine").mkdir()
    ran = bash(script, "runs/other", cwd=project, MODEL="mine", MEMORY="mem", DATA="mine")
    assert "--model\nmine\n--encoder\nmem" in ran.stdout and "video_world" not in ran.stdout


def test_synthesis_takes_a_plan_or_makes_the_embedded_world(project: Path) -> None:
    script = "scripts/data/synthesise.sh"
    named = {"PLAN": "my plan.yaml", "MODEL": "m", "INDEX": "wit", "OUTPUT": "out"}
    ran = bash(script, "items=2", "--dry-run", cwd=project, **named)
    words = ["comem", "data", "build", "my plan.yaml", "model=m", "index=wit", "items=2", "--output", "out"]
    assert ran.returncode == 0 and ran.stdout.splitlines() == [*words, "--dry-run"]
    dry = bash(script, "--dry-run", cwd=project).stdout
    assert "/configs/data/toy.yaml\n--output\nruns/data\n--dry-run" in dry and "toy\nbuild" not in dry
    ran = bash(script, cwd=project)
    assert "toy\nbuild\ndata/toy" in ran.stdout and "index\nbuild" in ran.stdout


def test_training_for_a_text_only_reader(project: Path) -> None:
    script = "scripts/train/finetune_lora_vision_llm.sh"
    ran = bash(script, "--dry-run", cwd=project, MODEL="Qwen/Qwen2.5-VL-7B-Instruct", DATA="my data.jsonl")
    words = ran.stdout.splitlines()
    assert ran.returncode == 0 and words[3].endswith("/configs/train/text_reader.yaml")
    assert words[4:] == [
        "model=Qwen/Qwen2.5-VL-7B-Instruct", "reader=qwen2_5", "data=my data.jsonl", "output=runs/train_llm",
        "--dry-run",
    ]  # fmt: skip
    words = bash(script, cwd=project).stdout.splitlines()
    assert words[:4] == ["comem", "toy", "dialogues", "data/toy-questions"]
    at = words.index("text-reader")
    assert words[at : at + 2] == ["text-reader", "models/toy-text"]
    assert "reader=models/toy-text" in words and "data=data/toy-questions/dialogues.jsonl" in words


def test_merging_takes_real_names(project: Path) -> None:
    ran = bash("scripts/train/merge_lora.sh", "--adapter", cwd=project, RUN="runs/my 7b", OUT="models/e")
    assert ran.stdout.splitlines() == ["comem", "merge", "runs/my 7b", "models/e", "--adapter"]
    ran = bash("scripts/train/merge_lora.sh", cwd=project, COMEM_CODE="3")
    assert ran.stdout.splitlines() == ["comem", "merge", "runs/train", "runs/train/merged"]
    assert ran.returncode == 3


def test_quickstart_sets_up_then_runs(project: Path) -> None:
    ran = bash("scripts/quickstart.sh", "--fast", cwd=project, COMEM_CODE="3")
    assert ran.stdout.split() == ["setup", "comem", "quickstart", "--fast"]
    assert ran.returncode == 3


@pytest.mark.parametrize("broken", ["RUFF_CODE", "MYPY_CODE", "PYTHON_CODE", ""])
def test_test_script_runs_everything_and_fails_if_anything_does(project: Path, broken: str) -> None:
    ran = bash("scripts/test.sh", "-k", "bank", cwd=project, **({broken: "1"} if broken else {}))
    words = ran.stdout.split()
    assert [word for word in words if word in ("setup", "ruff", "mypy", "pytest")][0] == "setup"
    assert "check" in words and words[-2:] == ["-k", "bank"], "the tests run even when a linter complains"
    assert ran.returncode == (1 if broken else 0)


def test_ci_repeats_what_the_tests_said(project: Path) -> None:
    closing = "===== 12 passed, 1 skipped in 3.20s ====="
    (project / "scripts" / "test.sh").write_text(f"echo '{closing}'\n")
    ran = bash(".ci/run", cwd=project)
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1] == closing
    assert ran.stdout.count(closing) == 2


@pytest.mark.parametrize("failing", ["test.sh", "quickstart.sh"])
def test_ci_passes_failures_on(project: Path, failing: str) -> None:
    (project / "scripts" / "test.sh").write_text("echo '== 1 passed in 1.00s =='\n")
    (project / "scripts" / failing).write_text("echo '== 1 failed in 1.00s =='; exit 4\n")
    assert bash(".ci/run", cwd=project).returncode == 4


class TestSetup:
    """setup.sh with stand-ins for python and uv: nothing is downloaded."""

    @pytest.fixture
    def bare(self, tmp_path: Path) -> Path:
        """A project without .venv, and a PATH whose `uv` only notes what it is asked."""
        (tmp_path / "scripts").mkdir()
        for name in ("scripts/setup.sh", "requirements.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, tmp_path / name)
        tools = tmp_path / "tools"
        tools.mkdir()
        real = shutil.which("python3")
        uv = tools / "uv"
        uv.write_text(
            "#!/bin/bash\n"
            'echo "uv $*" >> "$UV_LOG"\n'
            'if [ "$1" = venv ]; then\n'
            '  mkdir -p .venv/bin; echo "VIRTUAL_ENV=$PWD/.venv" > .venv/bin/activate\n'
            f'  printf "#!/bin/bash\\nexec {real} \\"\\$@\\"\\n" > .venv/bin/python\n'
            "  chmod +x .venv/bin/python\n"
            "fi\n"
            '[ "$1" != pip ] || exit "${UV_CODE:-0}"\n'
        )
        uv.chmod(0o755)
        return tmp_path

    def run(self, project: Path, **env: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        log = project / "uv.log"
        log.write_text("")
        path = f"{project / 'tools'}:{os.environ['PATH']}"
        settings = {"COMEM_TORCH_INDEX": "default", **env}
        ran = bash("scripts/setup.sh", cwd=project, PATH=path, UV_LOG=str(log), **settings)
        asked = [line for line in log.read_text().splitlines() if line != "uv --version"]
        return ran, asked

    def test_installs_once(self, bare: Path) -> None:
        ran, asked = self.run(bare)
        assert ran.returncode == 0, ran.stderr
        assert [words.split()[1] for words in asked] == ["venv", "pip", "pip"]
        assert "-r requirements.txt" in asked[1] and asked[2].endswith("--no-deps --no-build-isolation -e .")
        ran, asked = self.run(bare)
        assert ran.returncode == 0 and asked == [] and "is up to date" in ran.stdout

    def test_installs_again_when_the_pins_change(self, bare: Path) -> None:
        self.run(bare)
        with open(bare / "requirements.txt", "a", encoding="utf-8") as file:
            file.write("# changed\n")
        ran, asked = self.run(bare)
        assert "not up to date" in ran.stdout and [words.split()[1] for words in asked] == ["pip", "pip"]

    def test_a_failed_installation_is_not_taken_for_a_finished_one(self, bare: Path) -> None:
        ran, _ = self.run(bare, UV_CODE="1")
        assert ran.returncode == 1
        assert "run this again" in ran.stderr and "HTTPS_PROXY" in ran.stderr
        ran, asked = self.run(bare)
        assert ran.returncode == 0 and len(asked) == 2

    def test_a_broken_environment_is_made_anew(self, bare: Path) -> None:
        self.run(bare)
        (bare / ".venv" / "bin" / "python").write_text("#!/bin/bash\nexit 127\n")
        ran, asked = self.run(bare)
        assert ran.returncode == 0 and "does not run" in ran.stdout and asked[0].startswith("uv venv")

    def test_a_moved_project_gets_a_new_environment(
        self, bare: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        self.run(bare)
        moved = tmp_path_factory.mktemp("elsewhere") / "project"
        shutil.move(bare, moved)
        ran, asked = self.run(moved)
        assert ran.returncode == 0 and "another folder" in ran.stdout and asked[0].startswith("uv venv")

    def test_a_chosen_index_for_torch_is_tried_first(self, bare: Path) -> None:
        _, asked = self.run(bare, COMEM_TORCH_INDEX="https://example.invalid/cpu")
        assert "--index-url https://example.invalid/cpu --no-deps torch==" in asked[1]
        assert " torchvision==" in asked[1] and "-r requirements.txt" in asked[2]

    def test_pip_settings_hold_for_uv(self, bare: Path) -> None:
        """PIP_INDEX_URL is a user's own mirror: PyTorch's index is not asked then."""
        _, asked = self.run(bare, COMEM_TORCH_INDEX="", PIP_INDEX_URL="https://example.invalid/simple")
        assert all("download.pytorch.org" not in words for words in asked)

    def test_no_python_at_all(self, bare: Path) -> None:
        tools = bare / "bin"
        tools.mkdir()
        for name in ("bash", "dirname", "sed", "cat", "grep", "uname", "rm"):
            found = shutil.which(name)
            assert found is not None
            (tools / name).symlink_to(found)
        ran = bash("scripts/setup.sh", cwd=bare, PATH=str(tools))
        assert ran.returncode == 1
        assert "no Python 3.10 or newer" in ran.stderr and "COMEM_PYTHON" in ran.stderr
