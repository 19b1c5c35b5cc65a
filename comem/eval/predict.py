"""`comem predict`: a benchmark's questions, answered in one mode or several, and scored."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from comem.benchmarks import BENCHMARKS, Benchmark
from comem.benchmarks.prompts import PROMPTS
from comem.config import option
from comem.eval.run_folder import CONTEXTS, Merged, Processes, RunFolder, Shard, is_complete, merge_shards
from comem.eval.score import score_answers, show, write_metrics
from comem.io.console import Progress, print_facts, print_line, print_table, quiet
from comem.io.files import StorageError
from comem.retrieval.settings import RetrieverSettings
from comem.types import Answer, Example, Report, RetrievedContext

if TYPE_CHECKING:
    from comem.backbones.base import GenerationConfig
    from comem.backbones.hf import HFBackbone
    from comem.eval.answering import Run
    from comem.memory.bank import Bank
    from comem.memory.encoder import MemoryEncoder
    from comem.modes import Mode

_SHOWN = 20  # answers
_ASKED, _MODEL, _KNOWLEDGE, _DECODING, _RUN = "questions", "model", "knowledge", "decoding", "run"


@dataclass(frozen=True, kw_only=True)
class QuestionSettings:
    """Which questions.

    Attributes:
        benchmark: infoseek, infoseek_es …, okvqa, cvqa, toy …, or one of your own.
        data: its file or folder (default: from the hub).
        images: where its images lie.
        split: only this split.
        question_types: if the benchmark has such a file.
        prompt: paper, short, bare … (default: the benchmark's).
    """

    benchmark: str = option(group=_ASKED, metavar="NAME", choices="comem.benchmarks:BENCHMARKS")
    data: Path | None = option(None, group=_ASKED)
    images: Path | None = option(None, group=_ASKED, metavar="DIR")
    split: str | None = option(None, group=_ASKED)
    question_types: Path | None = option(None, group=_ASKED, metavar="FILE")
    prompt: str | None = option(
        None, group=_ASKED, metavar="STYLE", choices="comem.benchmarks.prompts:PROMPTS"
    )


@dataclass(frozen=True, kw_only=True)
class AskSettings(RetrieverSettings, QuestionSettings):
    """A benchmark's questions, put to a model with retrieved items: what every such job is told.

    Attributes:
        model: table row, hub id or folder (toy: the embedded one).
        dtype: auto, float32, bfloat16, float16.
        device: cpu, cuda, cuda:1, auto (default: a GPU if there is one).
        attn: sdpa, eager, flash_attention_2 (default: transformers' choice).
        trust_remote_code: run code from the model's repository.
        min_pixels: smallest image, in pixels.
        max_pixels: largest image, in pixels.
        languages: only items in these; own: in the question's.
        k: items a question, as in the paper.
        max_new_tokens: longest answer.
        temperature: 0 is greedy.
        top_p: when sampling.
        repetition_penalty: 1: none.
        seed: when sampling.
        engine: comem: the same greedy answers sooner; transformers: its own generate.
        paper_sampling: as the paper's inference, instead of the above.
        output: the run folder.
        batch_size: questions a batch.
        strict: stop at the first question that fails.
    """

    model: str = option("toy", group=_MODEL, also=("--backbone",))
    dtype: str = option("auto", group=_MODEL)
    device: str | None = option(None, group=_MODEL)
    attn: str | None = option(None, group=_MODEL)
    trust_remote_code: bool = option(False, group=_MODEL)
    min_pixels: int | None = option(None, group=_MODEL)
    max_pixels: int | None = option(None, group=_MODEL)
    languages: tuple[str, ...] = option((), group=_KNOWLEDGE, metavar="CODE")
    k: int = option(3, group=_KNOWLEDGE)
    max_new_tokens: int = option(64, group=_DECODING)
    temperature: float = option(0.0, group=_DECODING)
    top_p: float = option(1.0, group=_DECODING)
    repetition_penalty: float = option(1.0, group=_DECODING)
    seed: int = option(0, group=_DECODING)
    engine: Literal["comem", "transformers"] = option("comem", group=_DECODING)
    paper_sampling: bool = option(False, group=_DECODING)
    output: Path = option(group=_RUN, metavar="DIR")
    batch_size: int = option(8, group=_RUN)
    strict: bool = option(False, group=_RUN)

    @property
    def generation(self) -> GenerationConfig:
        """How answers are decoded."""
        from comem.backbones.base import PAPER_SAMPLING, GenerationConfig

        if self.paper_sampling:
            return PAPER_SAMPLING
        return GenerationConfig(
            self.max_new_tokens, self.temperature, self.top_p, self.repetition_penalty, self.seed
        )


@dataclass(frozen=True, kw_only=True)
class PredictSettings(AskSettings):
    """Answering a benchmark's questions.

    Modes: baseline (the question alone), rag (items in the prompt), comem (items as memory), vlm_as_memory
    (keys and values of a few layers of the untrained model).
    Run the same command again after an interruption: it goes on where it stopped.

    Several GPUs or processes each take a part of the questions (accelerate launch, or --shard 1/4 on one
    machine, 2/4 on another, …); the last one merges the parts and scores. --merge: what there is by now.

    Attributes:
        limit: only the first N questions.
        mode: baseline, rag, comem, hybrid, vlm_as_memory, or your own; each of several gets a folder.
        encoder: memory encoder folder, or "toy"; for comem.
        bank: of comem bank build or comem encode; for comem.
        embeddings: of each item, the first N (an elastic memory).
        item_order: retrieval (best first), reversed.
        question_layout: comem; authors_llm, authors_llm_training (text-only readers: docs/receivers.md).
        injection: how memories reach the model (default: the mode's own way).
        full: for hybrid: so many items as text and image, the best ones; the others as memory.
        budget: for hybrid: the most tokens that items may take (0: no limit).
        unsure: for hybrid: items in full only where an answer from memory starts less probably than this.
        alone: for hybrid: beside items in full no memory of the others.
        kv_layers: for vlm_as_memory.
        kv_fraction: for vlm_as_memory: tokens kept (1: all).
        shard: only part I of N, 1/4 to 4/4 for four.
        merge: answer nothing: put the parts together, and score.
    """

    limit: int | None = option(None, group=_ASKED)
    mode: tuple[str, ...] = option(group=_MODEL, metavar="NAME")
    encoder: str | None = option(None, group=_MODEL, metavar="DIR")
    bank: Path | None = option(None, group=_MODEL)
    embeddings: int | None = option(None, group=_MODEL)
    item_order: str = option("retrieval", group=_MODEL, metavar="ORDER")
    question_layout: str = option("comem", group=_MODEL, metavar="NAME")
    injection: str | None = option(None, group=_MODEL, metavar="NAME")
    full: int = option(1, group=_MODEL)
    budget: int = option(0, group=_MODEL)
    unsure: float = option(0.0, group=_MODEL)
    alone: bool = option(False, group=_MODEL)
    kv_layers: tuple[int, ...] = option((), group=_MODEL, metavar="L")
    kv_fraction: float = option(1.0, group=_MODEL)
    shard: str = option("1/1", group=_RUN, metavar="I/N")
    merge: bool = option(False, group=_RUN)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.mode, str):
            object.__setattr__(self, "mode", (self.mode,))
        if not self.mode or len(set(self.mode)) != len(self.mode):
            raise ValueError(f"--mode {' '.join(self.mode)}: give each mode once, and at least one")

    def folder(self, mode: str) -> Path:
        """The run folder of a mode: of several modes, each has its own."""
        return self.output / mode if len(self.mode) > 1 else self.output


@dataclass(frozen=True)
class Questions:
    """What is asked: a benchmark's row, the file or folder it was read from, and its examples."""

    benchmark: Benchmark
    data: Path
    examples: Sequence[Example]


@dataclass(frozen=True)
class Answered:
    """What one mode answered.

    Attributes:
        folder: its run folder.
        report: the score; None while parts are missing.
        answers: by example id, as far as they are there.
        memories: what the memories say of themselves.
        merged: what the merged parts hold.
        waits_for: why there is no report yet.
    """

    folder: Path
    report: Report | None = None
    answers: Mapping[str, Answer] | None = None
    memories: str = ""
    merged: Merged | None = None
    waits_for: str = ""


#: By mode.
PredictResult = dict[str, Answered]


def predict(settings: PredictSettings, progress: Progress = quiet) -> PredictResult:
    """Answer, in one mode or in several with the model loaded once, and score.

    Example:
        >>> toy = {"benchmark": "toy", "data": Path("data/toy"), "split": "test"}
        >>> found = predict(PredictSettings(**toy, mode=("baseline",), output=Path("runs/baseline")))
        >>> found["baseline"].report.metrics["accuracy"]

    Raises:
        ValueError: an unknown name, a missing option, data that cannot be read, or a folder of another run.
        StorageError: no space left, or another process writes there.
    """
    from comem.modes import MODES

    for name in settings.mode:
        MODES.check(name)  # before the first mode has answered
    questions, processes = load_questions(settings, settings.limit), Processes.of()
    shard = Shard.parse(settings.shard).within(processes)
    if settings.merge:
        return {name: _merged(settings.folder(name), questions, shard, force=True) for name in settings.mode}
    reader = Reader.open(settings, processes)
    found: PredictResult = {}
    contexts: dict[str, RetrievedContext] | None = None
    for name in settings.mode:
        folder = settings.folder(name)
        mode, config = reader.mode(settings, questions.benchmark, name)
        if mode.opens_question_images:
            questions.benchmark.require_images(questions.examples)
        if mode.grounded and contexts is None:
            cache = RunFolder(folder, shard).home / CONTEXTS
            contexts = retrieve(settings, shard.of(questions.examples), cache, progress)
        run = answer_questions(settings, questions, mode, contexts, folder, config, shard, progress)
        if shard.count > 1:
            done = _merged(folder, questions, shard)
        else:
            done = Answered(folder, _score(folder, questions, run.answers, run.unanswered), run.answers)
        memories = mode.settings.bank
        found[name] = replace(done, memories=memories.describe() if memories is not None else "")
    return found


def load_questions(settings: AskSettings, limit: int | None = None) -> Questions:
    """The benchmark's examples, or the first of them."""
    benchmark = BENCHMARKS[settings.benchmark]
    data = settings.data if settings.data is not None else benchmark.fetch(settings.split)
    loaded = benchmark.load(
        data, image_folder=settings.images, split=settings.split, question_types=settings.question_types
    )
    return Questions(benchmark, data, list(islice(loaded, limit)))


@dataclass(frozen=True)
class Reader:
    """The models of a run, loaded once for all its modes."""

    backbone: HFBackbone
    encoder: MemoryEncoder | None
    bank: Bank | None
    weights: str | None

    @classmethod
    def open(cls, settings: PredictSettings, processes: Processes | None = None) -> Reader:
        """Load what the settings name; wrong names fail before the work."""
        from comem.backbones.hf import load_backbone
        from comem.bank.serve import open_bank
        from comem.memory.encoder import load_encoder

        device = settings.device
        if processes is not None and processes.count > 1:
            import torch

            device = processes.device(device, torch.cuda.device_count())
        _ = PROMPTS[settings.prompt or BENCHMARKS[settings.benchmark].style]
        backbone = load_backbone(
            settings.model, settings.dtype, device, settings.attn,
            min_pixels=settings.min_pixels, max_pixels=settings.max_pixels,
            trust_remote_code=settings.trust_remote_code,
        )  # fmt: skip
        encoder = load_encoder(settings.encoder, backbone) if settings.encoder else None
        bank = open_bank(settings.bank, encoder) if settings.bank else None
        return cls(backbone, encoder, bank, weights_digest(backbone.model))

    def mode(self, settings: PredictSettings, benchmark: Benchmark, name: str) -> tuple[Mode, dict[str, Any]]:
        """A mode on these models, and what the run folder records of it."""
        from comem.engine.engine import accelerated
        from comem.memory.injection import INJECTIONS, LAYOUTS
        from comem.memory.settings import HybridSettings
        from comem.modes import MODES, KVSettings, ModeSettings

        style, generation = settings.prompt or benchmark.style, settings.generation
        ask = partial(benchmark.ask, style=style)

        if (layout := settings.question_layout) not in ("comem", *LAYOUTS):
            raise ValueError(f"question layout {layout!r}: allowed are {', '.join(('comem', *LAYOUTS))}")
        way = settings.injection or ("" if layout == "comem" else layout)
        injection = INJECTIONS[way](self.backbone, self.encoder) if way else None
        kv = KVSettings(layers=settings.kv_layers, fraction=settings.kv_fraction)
        hybrid = HybridSettings(settings.full, settings.budget, settings.unsure, settings.alone)
        reading: dict[str, Any] = {
            "item_order": settings.item_order, "kv": kv, "hybrid": hybrid, "embeddings": settings.embeddings,
        }  # fmt: skip
        mode = MODES[name](
            self.backbone, ModeSettings(self.encoder, self.bank, injection, ask, generation, **reading)
        )
        if settings.engine == "comem":
            mode = accelerated(mode)
        config: dict[str, Any] = {
            "model": settings.model, "dtype": settings.dtype, "prompt": style,
            "generation": asdict(generation), "engine": settings.engine,
            "min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels,
            "weights": self.weights,
        }  # fmt: skip
        if mode.grounded:
            made_by = self.encoder.fingerprint() if self.encoder is not None else None
            config |= {
                "k": settings.k, "item_order": settings.item_order,
                "encoder": self.bank.fingerprint if self.bank is not None else made_by,
                "index": str(settings.index),
                "contexts": str(settings.contexts) if settings.contexts else None,
                "languages": list(settings.languages) or None,
            }  # fmt: skip
            if settings.retriever or settings.milvus:
                config |= {"retriever": settings.retriever or "milvus", **settings.retriever_options}
            own = ("retriever", "milvus", "collection", "embedder", "retriever_options")
            plain = RetrieverSettings()
            config |= {n: v for n in own if (v := getattr(settings, n)) != getattr(plain, n)}
        if settings.question_layout != "comem":
            config |= {"question_layout": settings.question_layout}
        if settings.injection:
            config |= {"injection": settings.injection}
        if not self.backbone.spec.declared:  # what was found of it, beside the answers
            config |= {"backbone": asdict(self.backbone.spec)}
        return mode, config | mode.record()


def weights_digest(model: Any) -> str | None:
    """Which weights answer, should a hub id or folder get others; None where they are offloaded to disk."""
    from comem.memory.encoder import base_digest

    return None if any(weight.is_meta for weight in model.parameters()) else base_digest(model)


def retrieve(
    settings: AskSettings, examples: Sequence[Example], cache: Path, progress: Progress = quiet
) -> dict[str, RetrievedContext]:
    """The items of each question by its id: from a file of results, else searched for in the index.

    What was searched for is kept in `cache`, so that an interrupted run searches for nothing twice.

    Raises:
        ValueError: no index, k below 1, or results of another index.
    """
    from comem.retrieval.retriever import open_retriever, retrieve_all

    return retrieve_all(
        open_retriever(settings), examples, settings.k, settings.languages or None,
        cache=None if settings.contexts else cache, progress=progress,
    )  # fmt: skip


def answer_questions(
    settings: AskSettings,
    questions: Questions,
    mode: Mode,
    contexts: Mapping[str, RetrievedContext] | None,
    folder: Path,
    config: Mapping[str, Any],
    shard: Shard | None = None,
    progress: Progress = quiet,
) -> Run:
    """Answer into a run folder, which notes where questions and items come from."""
    from comem.eval.answering import answer  # it opens images: not for help

    sources = {"data": questions.data, "question_types": settings.question_types}
    if mode.grounded:
        bank = getattr(settings, "bank", None)
        sources |= {"index": settings.index, "contexts": settings.contexts, "bank": bank}
    return answer(
        questions.benchmark, questions.examples, mode, contexts if mode.grounded else None, folder,
        batch_size=settings.batch_size, config=config, strict=settings.strict, shard=shard,
        inputs={name: path for name, path in sources.items() if path is not None}, progress=progress,
    )  # fmt: skip


def _merged(folder: Path, questions: Questions, shard: Shard, force: bool = False) -> Answered:
    """The parts put together and scored, if this process is the last one or was asked to."""
    if not force and not is_complete(folder, questions.examples):
        return Answered(folder, waits_for=f"part {shard}: done; the last part merges all in {folder}")
    try:
        counts, answers = merge_shards(folder, questions.examples)
    except StorageError as error:
        if error.errno != errno.EAGAIN:
            raise
        return Answered(folder, waits_for=f"part {shard}: done; another process merges all in {folder}")
    return Answered(folder, _score(folder, questions, answers, counts.failed), answers, merged=counts)


def _score(folder: Path, questions: Questions, answers: Mapping[str, Answer], failed: int) -> Report:
    return write_metrics(score_answers(questions.benchmark, questions.examples, answers, failed), folder)


def show_predicted(found: PredictResult, settings: PredictSettings) -> None:
    """Print the scores, and where the answers are."""
    for each in found.values():
        if each.memories:
            print_facts([("memories", each.memories)])
        if each.merged is not None:
            counts = each.merged
            told = f"{counts.answered} answered, {counts.failed} failed, {counts.missing} in no part yet"
            print_facts([("merged", told)])
        if each.report is None:
            print_line(each.waits_for)
            continue
        show(each.report, BENCHMARKS[settings.benchmark].headline)
        if not each.report.scores and each.answers:  # nothing to compare them with
            rows = [(name, said.text) for name, said in list(each.answers.items())[:_SHOWN]]
            print_table(("question", "answer"), rows, f"{len(each.answers)} answers")
        print_facts([("run folder", str(each.folder))])
