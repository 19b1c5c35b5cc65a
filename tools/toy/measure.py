"""What the embedded models can do on towns that they never saw: `python -m tools.toy.measure`.

Each test question comes with the right item among three, in random order, one of the two others
resembling it; no retrieval is involved. The guess is a constant answer to each kind of question.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.benchmarks import BENCHMARKS
from comem.io.files import write_json
from comem.io.run_folder import run_manifest
from comem.toy.dataset import DataSettings, build
from comem.toy.dialogues import likeness
from comem.toy.lexicon import LANGUAGES
from comem.toy.world import Entity, World
from comem.types import Example, ImageRef, KnowledgeItem, RetrievedContext

if TYPE_CHECKING:
    from comem.modes.base import Mode

logger = logging.getLogger(__name__)
UNSEEN = "val_unseen_entity"
BATCH = 24


def contexts(world: World, folder: Path, examples: Sequence[Example], items: int) -> list[RetrievedContext]:
    """For each question its town's item among `items` of the test split, in random order."""
    towns = {town.id: town for town in world.split("test")}
    found = []
    for example in examples:
        rng = random.Random(f"measure/{example.id}")
        right = towns[example.meta["entity_id"]]
        others = [town for town in towns.values() if town is not right]
        rng.shuffle(others)
        alike = max(others[:60], key=lambda town: likeness(right, town))
        chosen = [right, alike, *(town for town in others if town is not alike)][:items]
        rng.shuffle(chosen)
        known = tuple(knowledge_item(town, folder, example.language) for town in chosen)
        found.append(RetrievedContext(example.id, known))
    return found


def knowledge_item(town: Entity, folder: Path, language: str) -> KnowledgeItem:
    """A town's WIT row as a knowledge item."""
    image = ImageRef(str(folder / "images" / f"{town.id}_0.png"))
    return KnowledgeItem(
        f"{town.id}/{language}", f"{town.name}: {town.passage(language)}", image, "toy", language
    )


def accuracy(mode: Mode, examples: Sequence[Example], known: Sequence[RetrievedContext]) -> dict[str, float]:
    """Share of right answers, by InfoSeek's scorer, in all and by language."""
    answers: dict[str, str] = {}
    for start in range(0, len(examples), BATCH):
        some = examples[start : start + BATCH]
        for example, answer in zip(some, mode.answer_batch(some, known[start : start + BATCH]), strict=True):
            answers[example.id] = answer.text
        logger.info("%s: %d of %d", mode.name, len(answers), len(examples))
    return _by_language(answers, examples)


def guess(examples: Sequence[Example], training: Sequence[Example]) -> dict[str, float]:
    """What one constant answer to each kind of question earns, chosen as the best on the training towns."""
    best: dict[tuple[str, str], str] = {}
    for kind in sorted({_kind(example) for example in training}):
        group = [example for example in training if _kind(example) == kind]
        texts = {example.answers[0] for example in group}
        best[kind] = max(sorted(texts), key=lambda text: _score({e.id: text for e in group}, group))
    return _by_language({example.id: best.get(_kind(example), "") for example in examples}, examples)


def _kind(example: Example) -> tuple[str, str]:
    return example.language, example.id.split("_")[2]


def _score(answers: Mapping[str, str], examples: Sequence[Example]) -> float:
    own = {example.id: answers[example.id] for example in examples}
    return float(BENCHMARKS["toy"].score(own, examples).metrics["accuracy"])


def _by_language(answers: Mapping[str, str], examples: Sequence[Example]) -> dict[str, float]:
    result = {"all": _score(answers, examples)}
    for language in sorted({example.language for example in examples}):
        result[language] = _score(answers, [e for e in examples if e.language == language])
    return result


def measure(questions: int, seed: int, items: int, memory: Path | None) -> dict[str, Any]:
    """Baseline, RAG and (with a memory) CoMEM on the same questions and items."""
    from comem.backbones.hf import load_backbone
    from comem.memory.encoder import load_encoder
    from comem.modes import MODES

    backbone = load_backbone("toy")
    benchmark = BENCHMARKS["toy"]
    with tempfile.TemporaryDirectory() as folder:
        settings = DataSettings(Path(folder), test_questions=round(1.5 * questions), languages=LANGUAGES)
        build(settings)
        examples = list(benchmark.load(Path(folder) / "test.jsonl", split=UNSEEN))
        known = contexts(World(settings.seed, settings.size), Path(folder), examples, items)
        training = list(benchmark.load(Path(folder) / "train.jsonl"))
        result: dict[str, Any] = {"guess": guess(examples, training)}
        for name in ("baseline", "rag", *(("comem",) if memory else ())):
            encoder = load_encoder(memory, backbone) if memory and name == "comem" else None
            mode = MODES[name](backbone, encoder=encoder, ask=benchmark.ask)
            result[name] = accuracy(mode, examples, known)
    return {"accuracy": result, "questions": len(examples), "items": items, "seed": seed}


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--memory", type=Path, help="encoder folder, measured too")
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--items", type=int, default=3)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    result = measure(args.questions, 0, args.items, args.memory)
    write_json(args.output, result | {"made_by": run_manifest()})
    for name, values in result["accuracy"].items():
        logger.info("%-9s %s", name, "  ".join(f"{k} {v:.1f}" for k, v in values.items()))


if __name__ == "__main__":
    main()
