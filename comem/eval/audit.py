"""Is it memory? Interventions on what a reader is given, and probes of what it holds.

Every intervention answers the same questions with the same items, whose memories were changed in one way;
what that does to the answers is told by paired differences. Probes are linear: they read a property of an
item off its memory, for items that the probe was not fitted on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comem.benchmarks.scoring import Bootstrap
from comem.config import option
from comem.eval.predict import PredictSettings, Questions, Reader, answer_questions, load_questions, retrieve
from comem.eval.probes import Probe, probe, read_off
from comem.eval.score import Comparison, compare, score_answers, write_metrics
from comem.io.console import Progress, print_line, print_table, quiet
from comem.io.files import read_jsonl, write_atomic, write_json
from comem.io.page import render
from comem.io.run_folder import run_manifest
from comem.registry import Registry
from comem.types import ImageRef, KnowledgeItem, RetrievedContext, Score

if TYPE_CHECKING:
    from torch import Tensor

    from comem.memory.bank import Bank, MemoryBank
    from comem.modes import Mode

AS_IS, NOTHING = "as is", "no items"


@dataclass(frozen=True)
class Around:
    """What an intervention may need beside the memories.

    Attributes:
        items: all items of the run, by id.
        memories: theirs, `(n, q, d)`, by id.
    """

    items: Mapping[str, KnowledgeItem]
    memories: MemoryBank

    def other(self, item: KnowledgeItem) -> str:
        """Another item's id: the next one of another source, all of them in the order of a hash."""
        order = sorted(self.items, key=lambda name: hashlib.sha256(name.encode()).digest())
        at = order.index(item.id)
        around = order[at + 1 :] + order[:at]
        apart = (name for name in around if self.items[name].source != item.source or not item.source)
        return next(apart, item.id)


#: An item's memory `(q, d)` and the item to the memory that is given instead, `(m, d)`.
Alter = Callable[["Tensor", KnowledgeItem, Around], "Tensor"]
AlterBank = Callable[["MemoryBank", Sequence[KnowledgeItem]], "MemoryBank"]


def zero(memory: Tensor, item: KnowledgeItem, around: Around) -> Tensor:
    """Vectors of zeros."""
    return memory * 0


def noise(memory: Tensor, item: KnowledgeItem, around: Around) -> Tensor:
    """Random directions, each vector's length kept."""
    import torch

    drawn = torch.randn(memory.shape, generator=_generator(item)).to(memory)
    changed: Tensor = drawn / drawn.norm(dim=-1, keepdim=True) * memory.norm(dim=-1, keepdim=True)
    return changed


def swap(memory: Tensor, item: KnowledgeItem, around: Around) -> Tensor:
    """Another item's memory."""
    return around.memories.select([around.other(item)]).embeddings[0].to(memory)


def shuffle(memory: Tensor, item: KnowledgeItem, around: Around) -> Tensor:
    """The same vectors in another order."""
    import torch

    return memory[torch.randperm(len(memory), generator=_generator(item)).to(memory.device)]


def _generator(item: KnowledgeItem) -> Any:
    import torch

    seed = int.from_bytes(hashlib.sha256(item.id.encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(seed)


#: Changes of an item's memory, by name; `only_1` … `only_q` keep one vector and are not listed.
INTERVENTIONS: Registry[Alter] = Registry(
    "intervention", {"zero": zero, "noise": noise, "swap": swap, "shuffle": shuffle}
)
#: Changes of what is encoded or given, which are no function of a memory.
OF_ITEMS = ("paraphrase", "other_image", "wrong_user")


@dataclass(frozen=True, kw_only=True)
class AuditSettings(PredictSettings):
    """Is it memory? Change the memories in one way after the other, and see what becomes of the answers.

    paraphrase and other_image encode other items, and need --encoder. Run again, it goes on.

    Attributes:
        mode: how the memories are read.
        interventions: zero, noise, swap, shuffle, only (each vector alone), wrong_user (another question's
            items), paraphrase, other_image, or your own; all by default.
        attributes: lines of id and properties of items, for the probes; the embedded world knows its own.
        paraphrases: lines of id and text: each passage in other words; else its sentences are turned round.
        samples: bootstrap draws.
    """

    mode: tuple[str, ...] = option(("comem",), metavar="NAME")
    interventions: tuple[str, ...] = option((), metavar="NAME")
    attributes: Path | None = option(None, metavar="FILE")
    paraphrases: Path | None = option(None, metavar="FILE")
    samples: int = 1000


@dataclass(frozen=True)
class Effect:
    """What an intervention did.

    Attributes:
        name: of the intervention.
        score: of the answers under it, in percent.
        changed: share of the answers whose text is another than as is.
        effect: as is minus this, paired; `confidence` is its interval in points.
        groups: the same by group of questions.
    """

    name: str
    score: float
    changed: float
    effect: Comparison
    groups: Mapping[str, Comparison] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """The findings.

    Attributes:
        benchmark, mode: what was asked, and how.
        score: as is, in percent.
        effects: of the interventions, in their order.
        probes: of the properties.
        left_out: interventions that could not be made, and why.
    """

    benchmark: str
    mode: str
    score: float
    questions: int
    effects: Sequence[Effect]
    probes: Sequence[Probe]
    left_out: Mapping[str, str]


class Altered:
    """A bank whose memories are changed as they are handed out."""

    def __init__(
        self, bank: Bank, alter: Callable[[MemoryBank, Sequence[KnowledgeItem]], MemoryBank]
    ) -> None:
        self.bank, self.alter = bank, alter
        self.fingerprint, self.width = bank.fingerprint, bank.width
        self.opens_images = bank.opens_images

    @property
    def counts(self) -> Any:
        """Of the bank."""
        return self.bank.counts

    def of(self, items: Sequence[KnowledgeItem]) -> MemoryBank:
        """As of the bank, changed."""
        return self.alter(self.bank.of(items), items)

    def ahead(self, items: Sequence[KnowledgeItem]) -> None:
        """Nothing: what is changed is not prepared."""

    def describe(self) -> str:
        """As of the bank."""
        return self.bank.describe()


def audit(settings: AuditSettings, progress: Progress = quiet) -> Audit:
    """Answer as is, then under each intervention, and probe the memories; resumes.

    Example:
        >>> toy = {"benchmark": "toy", "data": Path("data/toy"), "index": Path("data/toy/index")}
        >>> found = audit(AuditSettings(**toy, encoder="toy", output=Path("runs/audit")))
        >>> [(each.name, each.effect.difference) for each in found.effects]

    Raises:
        ValueError: as `predict`; an unknown intervention; no question has items.
    """
    names = _names(settings)
    questions = load_questions(settings, settings.limit)
    reader = Reader.open(settings)
    mode, config = reader.mode(settings, questions.benchmark, settings.mode[0])
    contexts = retrieve(settings, questions.examples, settings.output / "contexts.jsonl", progress)
    bank = mode.settings.bank
    items = {item.id: item for each in contexts.values() for item in each.items}
    if bank is None or not items:
        raise ValueError("nothing to look at: give --encoder or --bank, and an index that finds items")
    around = Around(items, bank.of(list(items.values())))
    world = _World.beside(settings)
    runs = list(_runs(names, mode, contexts, around, reader, settings, world))
    left_out = {name: made for name, made in runs if isinstance(made, str)}

    def run(name: str, mode: Mode, given: Mapping[str, RetrievedContext]) -> _Run:
        folder = settings.output / re.sub(r"\W+", "_", name)
        return _answered(settings, questions, mode, given, folder, {**config, "intervention": name}, progress)

    whole = run(AS_IS, mode, contexts)
    effects = []
    for name, made in runs:
        if not isinstance(made, str):
            effects.append(_effect(name, whole, run(name, *made), Bootstrap(settings.samples)))
    found = Audit(
        questions.benchmark.name, mode.name, whole.percent, len(whole.scores), effects,
        probe(around.memories, _properties(settings, world, items)), left_out,
    )  # fmt: skip
    write_json(settings.output / "audit.json", {**asdict(found), **run_manifest({})})
    write_atomic(
        settings.output / "audit.html", render("audit", audit=found, title=f"Audit: {found.benchmark}")
    )
    return found


def _names(settings: AuditSettings) -> list[str]:
    names = list(settings.interventions) or [NOTHING, *INTERVENTIONS, "only", *OF_ITEMS]
    for name in names:
        if name not in (NOTHING, "only", *OF_ITEMS):
            INTERVENTIONS.check(name)
    return names


Made = tuple["Mode", Mapping[str, RetrievedContext]]


def _runs(
    names: Sequence[str], mode: Mode, contexts: Mapping[str, RetrievedContext], around: Around,
    reader: Reader, settings: AuditSettings, world: _World | None,
) -> Iterator[tuple[str, Made | str]]:  # fmt: skip
    """Name, and mode with items, of every run; or why it cannot be made."""
    bank = mode.settings.bank
    assert bank is not None  # `audit` has seen to it

    def each(alter: Alter) -> Mode:
        def change(memories: MemoryBank, items: Sequence[KnowledgeItem]) -> MemoryBank:
            import torch

            rows = [alter(memories.embeddings[n], item, around) for n, item in enumerate(items)]
            return replace(memories, embeddings=torch.stack(rows))

        return mode.on(bank=Altered(bank, change))

    for name in names:
        if name == NOTHING:
            yield name, (mode, {key: RetrievedContext(key) for key in contexts})
        elif name == "only":
            count = around.memories.embeddings.shape[1]
            for n in range(count):
                yield f"only vector {n + 1}", (each(lambda m, *_, n=n: m[n : n + 1]), contexts)
        elif name == "wrong_user":
            yield name, (mode, _rotated(contexts))
        elif name in OF_ITEMS:
            yield name, _re_encoded(name, mode, contexts, around, reader, settings, world)
        else:
            yield name, (each(INTERVENTIONS[name]), contexts)


def _rotated(contexts: Mapping[str, RetrievedContext]) -> dict[str, RetrievedContext]:
    """To each question the items of another one, none of which it had itself where that can be."""
    names = list(contexts)
    found = {}
    for at, name in enumerate(names):
        mine = {item.id for item in contexts[name].items}
        others = (contexts[names[(at + step) % len(names)]].items for step in range(1, len(names) + 1))
        items = next((each for each in others if each and mine.isdisjoint(item.id for item in each)), ())
        found[name] = RetrievedContext(name, items)
    return found


def _re_encoded(
    name: str, mode: Mode, contexts: Mapping[str, RetrievedContext], around: Around, reader: Reader,
    settings: AuditSettings, world: _World | None,
) -> Made | str:  # fmt: skip
    """The mode over other items in place of the ones found, or why there are none."""
    from comem.bank.serve import LiveBank

    if reader.encoder is None:
        return "items have to be encoded: give --encoder, too"
    changed = dict(_other_items(name, around.items, settings, world))
    if not changed:
        return "no item has another image" if name == "other_image" else "no passages in other words"
    given = {
        key: replace(each, items=tuple(changed.get(item.id, item) for item in each.items))
        for key, each in contexts.items()
    }
    return mode.on(bank=LiveBank(reader.encoder)), given


def _other_items(
    name: str, items: Mapping[str, KnowledgeItem], settings: AuditSettings, world: _World | None
) -> Iterator[tuple[str, KnowledgeItem]]:
    """By id, the item of the same thing in other words, or with another image."""
    words = _paraphrases(settings) if name == "paraphrase" else {}
    images = _images_of_sources(settings) if name == "other_image" and world is None else {}
    for key, item in items.items():
        if name == "paraphrase":
            text = words.get(key) or (world.paraphrase(item) if world else None) or _turned(item.text)
            if text != item.text:
                yield key, replace(item, id=f"{key}~paraphrase", text=text)
            continue
        shown = world.other_image(item) if world else next(
            (path for path in images.get(item.source, ()) if path != str(item.image)), None
        )  # fmt: skip
        if shown is not None:
            yield key, replace(item, id=f"{key}~other_image", image=ImageRef(path=shown))


def _turned(text: str) -> str:
    """The sentences in reverse order, the title in front."""
    title, colon, body = text.partition(": ")
    if not colon:
        title, body = "", text
    sentences = re.split(r"(?<=[.!?。])\s*", body)
    return title + colon + " ".join(reversed([each for each in sentences if each]))


def _paraphrases(settings: AuditSettings) -> dict[str, str]:
    if settings.paraphrases is None:
        return {}
    return {str(row["id"]): str(row["text"]) for row in read_jsonl(settings.paraphrases)}


def _images_of_sources(settings: AuditSettings) -> dict[str, list[str]]:
    """The images of all items of a source (a page, an article)."""
    from comem.retrieval.knowledge import KnowledgeBase

    found: dict[str, list[str]] = {}
    for item in KnowledgeBase(settings.index_folder):
        if item.source and item.image is not None:
            found.setdefault(item.source, []).append(str(item.image))
    return found


@dataclass(frozen=True)
class _Run:
    scores: Sequence[Score]
    texts: Mapping[str, str]

    @property
    def percent(self) -> float:
        """The mean score."""
        return 100 * float(np.mean([score.value for score in self.scores]))

    def of(self, group: str) -> list[Score]:
        """The scores of a group."""
        return [score for score in self.scores if score.group == group]


def _answered(
    settings: AuditSettings, questions: Questions, mode: Mode, contexts: Mapping[str, RetrievedContext],
    folder: Path, config: Mapping[str, Any], progress: Progress,
) -> _Run:  # fmt: skip
    run = answer_questions(settings, questions, mode, contexts, folder, config, None, progress)
    scored = score_answers(questions.benchmark, questions.examples, run.answers, run.unanswered)
    report = write_metrics(scored, folder)
    return _Run(next(iter(report.scores.values())), {n: each.text for n, each in run.answers.items()})


def _effect(name: str, whole: _Run, changed: _Run, bootstrap: Bootstrap) -> Effect:
    same = [whole.texts.get(key) == text for key, text in changed.texts.items()]
    groups = sorted({score.group for score in whole.scores})
    by_group = {group: (whole.of(group), changed.of(group)) for group in groups if len(groups) > 1}
    return Effect(
        name, changed.percent, 1 - float(np.mean(same)), compare(whole.scores, changed.scores, bootstrap),
        {group: compare(*pair, bootstrap) for group, pair in by_group.items()},
    )  # fmt: skip


def _properties(
    settings: AuditSettings, world: _World | None, items: Mapping[str, KnowledgeItem]
) -> dict[str, dict[str, str]]:
    """By property the value of each item: from the file, from the world, and what the passages say."""
    found: dict[str, dict[str, str]] = {}
    given = {} if settings.attributes is None else {
        str(row["id"]): row for row in read_jsonl(settings.attributes)
    }  # fmt: skip
    for key, item in items.items():
        known = {name: value for name, value in given.get(key, {}).items() if name != "id"}
        known = {**read_off(item), **(world.properties(item) if world else {}), **known}
        for name, value in known.items():
            found.setdefault(name, {})[key] = str(value)
    return found


@dataclass(frozen=True)
class _World:
    """The embedded world's own knowledge of its items, by the page that an item names."""

    folder: Path
    towns: Mapping[str, Any]

    @classmethod
    def beside(cls, settings: AuditSettings) -> _World | None:
        """The world that the questions are of, if they are of one."""
        data = settings.data
        folder = data if data is not None and data.is_dir() else data.parent if data is not None else None
        if folder is None or not (folder / "world.json").is_file():
            return None
        from comem.io.files import read_json
        from comem.toy.world import World

        about = read_json(folder / "world.json")["settings"]
        towns = World(about["seed"], about["size"]).entities
        return cls(folder, {town.id: town for town in towns})

    def _town(self, item: KnowledgeItem) -> Any:
        return self.towns.get(item.source.rpartition("/")[2])

    def properties(self, item: KnowledgeItem) -> dict[str, str]:
        """What its arms and its facts are."""
        town = self._town(item)
        if town is None:
            return {}
        arms = {"image: colour": town.arms.charge_colour, "image: field": town.arms.field,
                "image: shape": town.arms.charge, "image: division": town.arms.division}  # fmt: skip
        facts = {f"text: {fact}": str(value) for fact, value in town.facts.items() if fact not in _NUMBERS}
        return arms | facts | {f"text: {fact}, tens": str(town.facts[fact] // 10) for fact in _NUMBERS[1:]}

    def paraphrase(self, item: KnowledgeItem) -> str | None:
        """The same facts in other sentences."""
        town = self._town(item)
        if town is None:
            return None
        title, colon, _ = item.text.partition(": ")
        return f"{title}{colon}{replace(town, seed=town.seed + 1).passage(item.language)}"

    def other_image(self, item: KnowledgeItem) -> str | None:
        """Another view of the same arms."""
        from comem.toy.world import image_path

        town = self._town(item)
        views = () if town is None else (self.folder / image_path(town, view) for view in range(1, 8))
        return next((str(path) for path in views if path.is_file()), None)


_NUMBERS = ("founded", "height", "area")


def show_audit(found: Audit, settings: AuditSettings) -> None:
    """Tables of effects and probes, and where the page is."""
    print_line(
        f"{found.mode} on {found.benchmark}, as is: {found.score:.1f} % of {found.questions} questions"
    )
    print_table(
        ("intervention", "score", "effect", "95 %", "answers changed"),
        [
            (each.name, f"{each.score:.1f}", f"{each.effect.difference:+.1f}",
             " to ".join(f"{end:+.1f}" for end in each.effect.confidence), f"{100 * each.changed:.0f} %")
            for each in found.effects
        ],
    )  # fmt: skip
    print_table(
        ("what it holds", "probe", "usual value", "dealt out", "values", "items", "best vector"),
        [
            (each.property, f"{each.accuracy:.1f}", f"{each.usual:.1f}", f"{each.chance:.1f}",
             str(each.values), str(each.items), f"{max(each.by_vector):.1f}")
            for each in found.probes
        ],
    )  # fmt: skip
    for name, reason in found.left_out.items():
        print_line(f"{name} left out: {reason}")
    print_line(f"{settings.output / 'audit.html'}")
