"""Every benchmark in every mode, on the embedded world: files, index, retrieval, answers, report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from comem.benchmarks import BENCHMARKS
from comem.eval.assemble import answer_and_score
from comem.io.jsonl import read_json
from comem.memory.serialization import TOY
from comem.modes import MODES
from comem.quickstart.settings import QuickSettings
from comem.quickstart.steps import Step
from comem.quickstart.towns import shipped_memory, town_steps
from comem.quickstart.work import BATCH, MAX_NEW_TOKENS, Workbench, contexts_of
from comem.toy.benchmark_files import FilesSettings

if TYPE_CHECKING:
    from comem.types import Example, RetrievedContext

#: The rows whose questions the embedded world has, and the folder of their files.
FOLDERS = {
    name: name.partition("_")[0] if name.startswith(("infoseek", "oven")) else name
    for name in BENCHMARKS
    if name not in ("toy", "flags", "oven")
}
#: The embedded backbone answers in words, and was never shown options or instructions.
STYLE = "bare"
_TRAINING = ("world", "index", "retrieve", "train", "merge")


@dataclass(frozen=True)
class AllSettings:
    """One run over all benchmarks.

    Attributes:
        folder: the run folder.
        fast: a quarter of the questions; a memory of a few seconds' training, where none is shipped.
        seed: of the training.
        items: knowledge items a question.
    """

    folder: Path
    fast: bool = False
    seed: int = 0
    items: int = 3

    @property
    def files(self) -> FilesSettings:
        return FilesSettings() if self.fast else FilesSettings(size=240, questions=48)


def all_steps(settings: AllSettings, bench: Workbench) -> list[Step]:
    """Files, index, retrieval; a memory, where the package ships none; a bank; and one step a benchmark."""
    folder, shipped = settings.folder, shipped_memory()
    made_by = read_json(shipped / "comem_encoder.json")["fingerprint"] if shipped else None
    training = [] if shipped else _training_steps(settings, bench)
    encoder = shipped or folder / "training" / "encoder"
    return [
        Step("files", "writing the embedded world's questions in every benchmark's format",
             partial(_files, settings), ("data",), asdict(settings.files)),
        Step("index", "indexing the passages by their pictures (CLIP + FAISS)",
             lambda: _index(folder, bench), ("index",)),
        Step("retrieve", f"retrieving {settings.items} items for every question, by picture",
             partial(_retrieve, settings, bench), ("retrieved",), {"k": settings.items}),
        *training,
        Step("encode", "encoding every item once, into a memory bank",
             lambda: bench.encode(encoder, folder / "index", _bank(folder)),
             ("bank.safetensors",), {"shipped": made_by}),
        *(
            Step(f"answer_{name}", f"answering {name}: {', '.join(MODES)}",
                 partial(_answer, settings, bench, name), (f"answers/{name}",), {"modes": list(MODES)})
            for name in FOLDERS
        ),
    ]  # fmt: skip


def _training_steps(settings: AllSettings, bench: Workbench) -> list[Step]:
    """The quickstart's first steps, in a folder of their own."""
    folder = settings.folder / "training"
    inner = QuickSettings(folder, fast=settings.fast, seed=settings.seed, items=settings.items)
    steps = {step.name: step for step in town_steps(inner, bench)}
    return [
        Step(f"memory_{name}", f"no memory is shipped: {steps[name].title}", steps[name].run,
             tuple(f"training/{path}" for path in steps[name].outputs), steps[name].settings)
        for name in _TRAINING
    ]  # fmt: skip


def _bank(folder: Path) -> Path:
    return folder / "bank.safetensors"


def _files(settings: AllSettings) -> None:
    from comem.toy.benchmark_files import build_files

    build_files(settings.folder / "data", settings.files)


def _index(folder: Path, bench: Workbench) -> None:
    bench.index(folder / "data" / "wit.tsv.gz", folder / "index")


def load_examples(folder: Path, name: str) -> list[Example]:
    """A row's questions in the run folder, with their pictures."""
    data = folder / "data"
    examples = list(BENCHMARKS[name].load(data / FOLDERS[name], image_folder=data / "images"))
    BENCHMARKS[name].require_images(examples)
    return examples


def _retrieve(settings: AllSettings, bench: Workbench) -> None:
    """Items in the language of each question: in all six, the three nearest would be one town."""
    folder = settings.folder
    for name in FOLDERS:
        examples = load_examples(folder, name)
        for language in sorted({example.language for example in examples}):
            chosen = [example for example in examples if example.language == language]
            output = folder / "retrieved" / name / f"{language}.jsonl"
            bench.retrieve(folder / "index", chosen, settings.items, output)


def _contexts(folder: Path, name: str) -> dict[str, RetrievedContext]:
    found: dict[str, RetrievedContext] = {}
    for file in sorted((folder / "retrieved" / name).glob("*.jsonl")):
        found |= contexts_of(folder / "index", file)
    return found


def _answer(settings: AllSettings, bench: Workbench, name: str) -> None:
    """All modes on one benchmark; each resumes by itself."""
    from comem.backbones.base import GenerationConfig
    from comem.memory.bank import MemoryBank

    folder, benchmark = settings.folder, BENCHMARKS[name]
    examples, contexts = load_examples(folder, name), _contexts(folder, name)
    bank = MemoryBank.load(_bank(folder))
    for mode in MODES:
        prompt, generation = partial(benchmark.ask, style=STYLE), GenerationConfig(MAX_NEW_TOKENS)
        built = MODES[mode](bench.backbone, None, bank, prompt=prompt, generation=generation)
        config = {"model": TOY, "prompt": STYLE, "k": settings.items, "encoder": bank.fingerprint}
        used = contexts if built.grounded else None
        answer_and_score(benchmark, examples, built, used, folder / "answers" / name / mode, config, BATCH)
    if name.startswith("oven_"):
        _link(folder, name)


def _link(folder: Path, name: str) -> None:
    """Wikidata ids of the answers, as the official score of OVEN wants them."""
    from comem.linking.build import build_title_index
    from comem.linking.link import LinkSettings, link_file
    from comem.linking.titles import TOKENIZERS

    titles = folder / "data" / "oven" / "Wiki6M_ver_1_0_title_only.jsonl"
    index = build_title_index(titles, folder / "titles", TOKENIZERS["words"](None))
    for mode in MODES:
        answers = folder / "answers" / name / mode
        link_file(index, answers / "predictions.jsonl", answers / "linked.jsonl", LinkSettings())
