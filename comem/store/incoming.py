"""What is to be remembered, however it was given: texts, images, messages, folders, tables, videos."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from comem.bank.format import content_hash
from comem.io.files import exact, is_missing, read_jsonl, short, valid
from comem.io.images import ImageError, image_bytes, image_ref, open_image
from comem.retrieval.corpus.rows import IMAGE_SUFFIXES
from comem.retrieval.corpus.rules import CorpusRules, CorpusStats
from comem.retrieval.corpus.sources import find_sources, read_corpus
from comem.retrieval.corpus.videos import clock, is_video
from comem.store.films import stretches
from comem.store.table import SCOPES, MemoryFolderError, Scope
from comem.types import ImageRef, KnowledgeItem, VideoRef

if TYPE_CHECKING:
    from typing import TypeAlias

    from PIL import Image

ImageLike: TypeAlias = "str | Path | bytes | ImageRef | Image.Image"
#: An image file of more bytes than this is not kept.
MAX_IMAGE_BYTES = 64_000_000
#: Characters of a text that are kept; a book is several items.
MAX_TEXT = 200_000
ITEMS, ABOUT = "items.jsonl", "about.json"  # of an export


class NoNumbersError(MemoryFolderError):
    """What a model made of something is no vector: it is a fault of that item, like an unreadable image."""


def name_of(item: Pending) -> str:
    """Of an item, for messages."""
    return f"the item {short(item.text or item.id)!r}"


@dataclass(frozen=True)
class Pending:
    """An item that is to be written; its image was opened once."""

    id: str
    text: str
    data: bytes | None
    opened: Image.Image | None
    metadata: Mapping[str, Any]
    scope: Scope | None = None
    video: VideoRef | None = None

    @property
    def reference(self) -> ImageRef | None:
        """The image with its pixels."""
        return None if self.data is None else ImageRef(data=self.data, pixels=self.opened)

    @property
    def digest(self) -> str:
        """Of text and image."""
        return content_hash(KnowledgeItem(self.id, self.text, self.reference)).hex()


def item_of(
    content: Any, image: ImageLike | None, metadata: Mapping[str, Any], item_id: str | None
) -> Pending:
    """One thing to remember, checked.

    Raises:
        ValueError: nothing in it, too long, or an image that cannot be opened.
    """
    text, facts = "", dict(metadata)
    if isinstance(content, KnowledgeItem):
        text, item_id = content.text, content.id if item_id is None else item_id
        image = content.image if image is None else image
    elif isinstance(content, Mapping):
        text, image = _message(content, image)
        facts = {**facts, **facts_of(content.get("metadata"))}
        item_id = content.get("id") if item_id is None else item_id
    elif isinstance(content, (str, int, float)):
        text = str(content)
    elif content is not None:
        raise MemoryFolderError(
            f"{type(content).__name__} is no text: an image is given as image=…, other things as "
            "{'text': …, 'image': …, 'metadata': …}"
        )
    text = valid(text.replace("\x00", "").strip())
    if len(text) > MAX_TEXT:
        raise MemoryFolderError(f"a text of {len(text):,} characters: at most {MAX_TEXT:,}; add it in parts")
    reference = None if image is None else reference_of(image)
    if reference is None and not text:
        raise MemoryFolderError("nothing to remember: give a text, an image, or both")
    data = None if reference is None else image_bytes(reference, MAX_IMAGE_BYTES)
    opened = None if reference is None else reference.pixels or open_image(reference)
    return Pending(valid(exact(item_id)), text, data, opened, facts)


def _message(content: Mapping[str, Any], image: Any) -> tuple[str, Any]:
    """Text and image of a mapping: an item's fields, or a message of a conversation."""
    if "role" not in content:
        found = (content[name] for name in ("text", "memory") if not is_missing(content.get(name)))
        given = content.get("image") if image is None else image
        return str(next(found, "")), None if is_missing(given) else given
    parts = content.get("content") or ""
    if isinstance(parts, str):
        return f"{content['role']}: {parts}", image
    if not isinstance(parts, (list, tuple)) or not all(map(_readable, parts)):
        raise MemoryFolderError(
            'a message\'s content is a text, or a list of {"type": "text", "text": …} and '
            '{"type": "image_url", "image_url": {"url": …}}'
        )
    texts = [str(part.get("text", "")) for part in parts if part.get("type") == "text"]
    shown = [part for part in parts if part.get("type") == "image_url"]
    if len(shown) > 1:
        raise MemoryFolderError("a message with several images: add each as an item of its own")
    return f"{content['role']}: {' '.join(texts)}", next(iter(shown), None) if image is None else image


def _readable(part: Any) -> bool:
    """Whether a part of a message is one that can be read, or passed over."""
    if not isinstance(part, Mapping):
        return False
    shown = part.get("image_url")
    url = shown.get("url") if isinstance(shown, Mapping) else shown
    return part.get("type") != "image_url" or isinstance(url, str)


def facts_of(metadata: Any) -> dict[str, Any]:
    """Metadata, if that is what it is."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise MemoryFolderError(f"metadata is a mapping, as {{'year': 1204}}, not {metadata!r:.80}")
    return dict(metadata or {})


def reference_of(image: ImageLike) -> ImageRef:
    """An image in any form that `image_ref` reads; a path may lead anywhere, as it is the user's own word.

    Raises:
        ImageError: a form that cannot be used, or nothing.
    """
    path = isinstance(image, (str, Path)) and str(image).startswith("~")
    found = image_ref(os.path.expanduser(cast(str, image)) if path else image, "", anywhere=True)
    if found is None:
        raise ImageError("the image is empty: give a path, a data URI, bytes, or a Pillow image")
    if found.fault:
        raise ImageError(f"{found.path}: {found.fault}")
    return found


def source_of(content: Any) -> Path | VideoRef | None:
    """The path of a file or folder, or the video, if that is what was given."""
    if isinstance(content, VideoRef):
        return content
    if isinstance(content, Path):
        if not content.exists():
            raise MemoryFolderError(f"{content}: no such file or folder; check the path")
        return content
    if isinstance(content, str) and len(content) < 1024 and "\n" not in content and content.strip():
        name = os.path.expanduser(content)
        if os.path.isdir(name) or (os.path.splitext(name)[1] and os.path.isfile(name)):
            return Path(name)
        if not content.split()[1:] and (name.lower().endswith(tuple(IMAGE_SUFFIXES)) or is_video(name)):
            raise MemoryFolderError(
                f"{content}: no such file; check the path (of a text: add({{'text': …}}))"
            )
    return None


def several_of(content: Any) -> list[Pending] | None:
    """Several things; None if it is one."""
    if (
        content is None
        or isinstance(content, (str, bytes, Mapping, KnowledgeItem))
        or not isinstance(content, Iterable)
    ):
        return None
    return [item_of(each, None, {}, None) for each in content]


def _stable_id(scope: Scope, path: Path, name: str) -> str:
    """The same for the same file of the same folder and owner, and free of slashes."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, repr((asdict(scope), str(path.absolute()), name))))


class _Everything(CorpusRules):
    """All that a folder holds: texts without an image, images without a text."""

    image_only = True


@dataclass
class Film:
    """A video that was read: the seconds, and the items that they became."""

    name: str
    start: float
    end: float | None
    ids: set[str] = field(default_factory=set)


@dataclass
class Source:
    """A folder, table or video that is being added.

    Attributes:
        path: of it, or the video.
        scope: whose the items become.
        facts: metadata of all.
        stretch: seconds of a video that become one item.
        skipped: why something could not be read.
        films: videos that were read to their end.
    """

    path: Path | VideoRef
    scope: Scope
    facts: Mapping[str, Any]
    stretch: float
    skipped: list[str] = field(default_factory=list)
    films: list[Film] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For people."""
        return self.path.name if isinstance(self.path, Path) else str(self.path)

    @property
    def folder(self) -> Path:
        """Which ids are made of, with the names in it."""
        if isinstance(self.path, VideoRef):
            return Path(self.path.path or ".").parent
        return self.path if self.path.is_dir() else self.path.parent

    def film_id(self, name: str, start: float) -> str:
        """Of a stretch of a video."""
        return _stable_id(self.scope, self.folder, f"{name}#{start:.3f}")

    def things(self) -> Iterator[Pending]:
        """What there is to remember.

        Raises:
            ValueError: of what was named itself; within a folder it is skipped.
        """
        path = self.path
        if isinstance(path, VideoRef):
            yield from self._film(path, Path(path.path).name if path.path else str(path))
        elif path.is_dir() and (path / ABOUT).is_file() and (path / ITEMS).is_file():
            yield from self._exported(path)
        elif is_video(path) and path.is_file():
            yield from self._film(VideoRef(str(path)), path.name)
        else:
            yield from self._corpus(path)

    def _exported(self, path: Path) -> Iterator[Pending]:
        """Of `export`: with ids, owners, metadata."""
        for row in read_jsonl(path / ITEMS):
            image, noted = image_ref(row.get("image"), path), row.get("metadata")
            owner = self.scope if self.scope.named else Scope(*(row.get(name) for name in SCOPES))
            about = {**(noted if isinstance(noted, Mapping) else {}), **self.facts}
            try:
                made = item_of(row.get("text"), image, about, row.get("id"))
                yield replace(made, scope=owner, id=made.id or str(uuid.uuid4()))
            except (ImageError, MemoryFolderError) as error:
                self.skipped.append(str(error))

    def _corpus(self, path: Path) -> Iterator[Pending]:
        """The rows of a corpus, or the images and videos of a folder."""
        stats, sources = CorpusStats(), find_sources([path], segment=0)  # videos have their subtitles, here
        for item in read_corpus(sources, _Everything(text_only=True, unique="none"), stats):
            about = {**self.facts, "file": item.id, **({"source": item.source} if item.source else {})}
            if item.video is not None:
                about |= {"start": item.video.start, "end": item.video.end}
            try:
                made = item_of(replace(item, id=_stable_id(self.scope, path, item.id)), None, about, None)
                yield replace(made, video=item.video)
            except (ImageError, MemoryFolderError) as error:
                self.skipped.append(str(error))
        self.skipped += [f"{count} rows: {reason}" for reason, count in stats.dropped.items()]
        if [source.kind for source in sources] == ["folder"]:
            for name in _films(path):
                try:
                    yield from self._film(VideoRef(str(path / name)), name)
                except ValueError as error:
                    self.skipped.append(str(error))

    def _film(self, ref: VideoRef, name: str) -> Iterator[Pending]:
        """The stretches of a video."""
        film = Film(name, ref.start, ref.end)
        for each in stretches(ref, self.stretch):
            item_id = self.film_id(name, each.start) if ref.path else str(uuid.uuid4())
            film.ids.add(item_id)
            about = {**self.facts, "file": name, "start": each.start, "end": each.end}
            text = f"{name}, {clock(each.start)} to {clock(each.end)}. {each.text}"
            yield replace(item_of(text[:MAX_TEXT], each.image, about, item_id), video=each.video)
        self.films.append(film)


def _films(folder: Path) -> list[str]:
    """Videos in a folder and below it, relative to it."""
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
        for parent, _, names in os.walk(folder)
        for name in names
        if is_video(name) and valid(name) == name
    )


def batches(items: Iterable[Pending], size: int) -> Iterator[list[Pending]]:
    """In lists of some size; of one id the last."""
    batch: dict[str, Pending] = {}
    for item in items:
        batch[item.id] = item
        if len(batch) == size:
            yield list(batch.values())
            batch = {}
    if batch:
        yield list(batch.values())
