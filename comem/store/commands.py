"""`comem ask` and `comem chat`: a memory at the terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.config import option, take_paths
from comem.io.console import Progress, print_facts, print_line, print_piece, print_table, quiet
from comem.store.table import FILE, MemoryFolderError, Scope

if TYPE_CHECKING:
    from comem.store.memory import Memory
    from comem.store.shapes import MemoryAnswer

_MODELS, _SEARCH, _ANSWER = "models", "what is looked for", "the answer"
_BEGUN = "adding"  # noted until all of the folder is there


@dataclass(frozen=True)
class MemorySettings:
    """Which memory, on which models.

    Attributes:
        folder: a memory; or a folder of images and videos, a video, or a corpus, of which one is made beside
            it (FOLDER.memory).
        backbone: what answers (default: as the memory was made; the embedded model).
        encoder: what makes memories; "none" keeps texts and images only.
        embedder: what makes vectors to search by.
        device: cpu, cuda, cuda:1 … (default: a GPU if there is one).
        vectors: URI of a Milvus that keeps the vectors, for more than fit into RAM; the folder remembers it.
        update: bring what is new or changed in the folder, too.
    """

    folder: Path = option(positional=True, metavar="FOLDER")
    backbone: str | None = option(None, group=_MODELS)
    encoder: str | None = option(None, group=_MODELS, metavar="DIR")
    embedder: str | None = option(None, group=_MODELS)
    device: str | None = option(None, group=_MODELS)
    vectors: str = option("", group=_MODELS, metavar="URI")
    update: bool = False

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True)
class QuestionSettings(MemorySettings):
    """How questions are asked.

    Attributes:
        mode: comem, rag, baseline, vlm_as_memory, or your own (default: comem where embeddings are kept).
        k: items a question.
        user_id: only this user's items.
        max_tokens: the longest answer.
        temperature: 0 is greedy.
        seed: of sampling.
    """

    mode: str = option("", group=_ANSWER, metavar="NAME")
    k: int = option(3, group=_SEARCH)
    user_id: str | None = option(None, group=_SEARCH, metavar="NAME")
    max_tokens: int = option(64, group=_ANSWER)
    temperature: float = option(0.0, group=_ANSWER)
    seed: int = option(0, group=_ANSWER)


@dataclass(frozen=True)
class OneQuestionSettings(QuestionSettings):
    """Asking a memory one question.

    Attributes:
        question: a text.
        image: shown with it; items are searched by it.
        by: what items are searched by: auto (the image if there is one), image, text, both.
    """

    question: str = option("", positional=True, metavar="QUESTION")
    image: Path | None = option(None, also=("-i",), metavar="FILE")
    by: str = option("auto", group=_SEARCH)


def open_memory(settings: MemorySettings, progress: Progress = quiet, create: bool = False) -> Memory:
    """The memory that the settings mean; made of the folder's images where there is none.

    Args:
        settings: folder and models.
        progress: shows how far the folder is.
        create: make an empty memory where there is no folder.

    Raises:
        ValueError: no such folder, or one of other models.
    """
    from comem.store.memory import Memory

    source, place = settings.folder, settings.folder
    if not (source / FILE).is_file() and not (create and not source.exists()):
        if not source.exists():
            raise MemoryFolderError(f"{source}: no memory, and no folder to make one of; check the path")
        whole = source.resolve() if source.name in ("", "..") else source  # "." has a name, too
        if not whole.name:
            raise MemoryFolderError(f"{source}: no memory can be made beside it; give a folder of images")
        place = whole.with_name(f"{whole.name}.memory")
        if source.is_dir() and not any(source.iterdir()):
            place = source  # empty: it becomes the memory itself
    new = place != source and not (place / FILE).is_file()
    memory = Memory(
        place, settings.backbone, settings.encoder, settings.embedder, device=settings.device,
        vectors=settings.vectors,
    )  # fmt: skip
    try:
        if new:
            memory._table.note({_BEGUN: "yes"})  # whoever is killed in the middle goes on with the next call
        if place != source and (settings.update or memory.about().get(_BEGUN)):
            _take_all(memory, source, progress)
    except BaseException:
        memory.close()
        raise
    return memory


def _take_all(memory: Memory, source: Path, progress: Progress) -> None:
    """Add what is new or changed in a folder, and say so."""
    added = memory.add(source, progress=progress)
    memory._table.note({_BEGUN: ""})
    for reason in added.skipped:
        print_line(f"left out: {reason}", "yellow")
    told = f"{len(added.ids):,} items added" + (f", {added.unchanged:,} unchanged" if added.unchanged else "")
    print_line(f"{memory.folder}: {told}")


def ask(settings: OneQuestionSettings, progress: Progress = quiet) -> MemoryAnswer:
    """Ask a memory one question.

    Example:
        >>> ask(OneQuestionSettings(Path("trip"), question="When was this built?", image=Path("x.jpg"))).text

    Raises:
        ValueError: no such folder, an empty question, an image that cannot be opened.
    """
    from comem.io.images import open_image
    from comem.modes import MODES
    from comem.store.incoming import reference_of
    from comem.store.shapes import Ask

    if settings.mode:
        MODES.check(settings.mode)
    shown = None if settings.image is None else reference_of(settings.image)
    if shown is not None:
        open_image(shown)
    by: Any = settings.by
    asked = Ask(  # checked before a folder of ten thousand images is read
        settings.question, shown, scope=Scope(settings.user_id), mode=settings.mode, k=settings.k, by=by,
        max_tokens=settings.max_tokens, temperature=settings.temperature, seed=settings.seed, attention=True,
    )  # fmt: skip
    with open_memory(settings, progress) as memory:
        return memory.ask_many([asked])[0]


def show_answer(answer: MemoryAnswer, settings: OneQuestionSettings) -> None:
    """Print the answer and what it comes from."""
    print_line(answer.text)
    _show_items(answer)


def _show_items(answer: MemoryAnswer) -> None:
    timed = any(item.when for item in answer.items)
    rows = [
        (
            item.text[:60] or "(an image)", *((item.when,) if timed else ()), f"{item.score or 0:.2f}",
            "" if item.attention is None else f"{item.attention:.1%}", item.id,
        )
        for item in answer.items
    ]  # fmt: skip
    if rows:
        headings = ("item", *(("when",) if timed else ()), "score", "attention", "id")
        print_table(headings, rows, texts=("when", "id"))
    cost = f"{answer.prompt_tokens} tokens read ({answer.context_tokens} of memory), {answer.seconds:.2f} s"
    print_facts([(answer.mode, cost)])


_HELP = """/add TEXT, /add PATH    remember a text, an image, a video, a folder
/image PATH             show an image with the next question
/used                   what the last answer comes from
/list                   the newest items
/delete ID              forget an item
/mode NAME, /k N        how to answer; how many items
/new                    forget this conversation (not the memory)
/quit"""


@dataclass
class Chat:
    """A conversation with a memory, line by line.

    Attributes:
        memory: what is remembered.
        settings: how questions are asked.
        turns: of the conversation so far.
    """

    memory: Memory
    settings: QuestionSettings
    turns: list[tuple[str, str]] = field(default_factory=list)
    last: MemoryAnswer | None = None
    image: Path | None = None

    def say(self, line: str) -> bool:
        """Answer a line, or do what its slash command says; whether the conversation goes on."""
        line = line.strip()
        try:
            if line.startswith("/"):
                return self._command(line)
            if line:
                self._answer(line)
        except (ValueError, OSError) as error:
            print_line(str(error), "red")
        return True

    def _answer(self, question: str) -> None:
        from comem.types import Message

        turns = [
            message
            for asked, answered in self.turns
            for message in (Message("user", (asked,)), Message("assistant", (answered,)))
        ]
        options = self.settings
        self.last = self.memory.ask(
            question, self.image, user_id=options.user_id, mode=options.mode, k=options.k, turns=tuple(turns),
            max_tokens=options.max_tokens, temperature=options.temperature, seed=options.seed,
            on_text=print_piece,
        )  # fmt: skip
        print_line("")
        self.turns.append((question, self.last.text))
        self.image = None

    def _command(self, line: str) -> bool:
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        actions: dict[str, Callable[[str], object]] = {
            "/add": self._add, "/image": self._show, "/used": self._used, "/list": self._list,
            "/delete": self._delete, "/mode": self._mode, "/k": self._k, "/new": self._new,
        }  # fmt: skip
        if word in ("/quit", "/exit"):
            return False
        if word not in actions:
            print_line(_HELP)
            return True
        actions[word](rest)
        return True

    def _add(self, text: str) -> None:
        path = _path(text)
        thing = path if text and os.path.exists(path) else {"text": text} if text.split()[1:] else text
        added = self.memory.add(thing, user_id=self.settings.user_id)
        for reason in added.skipped:
            print_line(f"left out: {reason}", "yellow")
        print_line(f"remembered: {', '.join(added.ids[:5])}{' …' if len(added.ids) > 5 else ''}")

    def _show(self, path: str) -> None:
        from comem.io.images import open_image

        self.image = _path(path)
        try:
            open_image(self.image)
        except ValueError:
            self.image = None
            raise

    def _used(self, _: str) -> None:
        if self.last is None:
            print_line("nothing has been asked yet")
        else:
            _show_items(self.last)

    def _list(self, _: str) -> None:
        items = self.memory.get_all(user_id=self.settings.user_id, limit=20, images=False)
        print_table(
            ("item", "id"), [(item.text[:80] or "(an image)", item.id) for item in items], texts=("id",)
        )

    def _delete(self, item_id: str) -> None:
        if self.settings.user_id not in (None, self.memory.get(item_id).user_id):
            raise MemoryFolderError(f"no item {item_id!r} of {self.settings.user_id}")
        self.memory.delete(item_id)
        print_line("forgotten")

    def _mode(self, name: str) -> None:
        from comem.modes import MODES

        MODES.check(name)
        self.settings = replace(self.settings, mode=name)

    def _k(self, number: str) -> None:
        if not number.isdecimal():
            raise MemoryFolderError(f"/k {number}: how many items, as in /k 3")
        self.settings = replace(self.settings, k=int(number))

    def _new(self, _: str) -> None:
        self.turns.clear()


@dataclass(frozen=True)
class ChatSettings(QuestionSettings):
    """A conversation with a memory at the terminal; /help shows what a line may be."""


def chat(settings: ChatSettings, progress: Progress = quiet) -> int:
    """Talk until the input ends; how many questions were answered.

    Raises:
        ValueError: no such folder, or one of other models.
    """
    with open_memory(settings, progress) as memory:
        talk = Chat(memory, settings)
        print_line(f"{len(memory):,} items; /help shows the commands")
        for line in _lines():
            if not talk.say(line):
                break
        return len(talk.turns)


def _path(text: str) -> Path:
    """A path as people type it: quoted, with a tilde; an apostrophe is one where it closes nothing."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    return Path(os.path.expanduser(words[0] if len(words) == 1 else text))


def _lines() -> Iterator[str]:
    """What is typed, until it ends."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
