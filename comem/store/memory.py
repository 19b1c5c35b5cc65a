"""`comem.Memory`: a folder that remembers images and texts, and answers from them."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from comem.bank.forms import PLAIN_FORMS
from comem.io.console import Progress, quiet
from comem.io.files import whole_file, write_json
from comem.retrieval.corpus.rows import IMAGE_SUFFIXES
from comem.retrieval.embedder import unusable
from comem.store.films import SECONDS
from comem.store.incoming import (
    ABOUT,
    ITEMS,
    Film,
    ImageLike,
    NoNumbersError,
    Pending,
    Source,
    batches,
    facts_of,
    item_of,
    name_of,
    reference_of,
    several_of,
    source_of,
)
from comem.store.index import Index, Query, conditions_of, words_of
from comem.store.models import Models, form_of
from comem.store.shapes import (
    Added,
    Ask,
    By,
    Hit,
    MemoryAnswer,
    MemoryItem,
    as_item,
    check_amount,
    text_of,
)
from comem.store.table import Found, MemoryFolderError, NoItemError, Row, Scope, Table, count_words
from comem.store.watching import Spoken, Watched, end_ids
from comem.types import Example, ImageRef, KnowledgeItem, RetrievedContext, VideoRef

if TYPE_CHECKING:
    from torch import Tensor

    from comem.backbones.base import Backbone
    from comem.memory.bank import MemoryBank
    from comem.memory.encoder import MemoryEncoder
    from comem.retrieval.embedder import Embedder
    from comem.store.decide import Decided

_LOOKS = 8  # searches at most, while others delete what they find
BATCH = 32  # items that are read at once, and that one transaction adds


class Memory:
    """A folder that remembers: images and texts go in, answers come out.

    What is added can be asked about at once, what is deleted is gone from every file at once, and a process
    that is killed leaves no change half done. One process writes, others may read.

    Example:
        >>> memory = comem.Memory("trip")
        >>> memory.add("The mill, built in 1204.", image="mill.jpg", user_id="ann")
        >>> answer = memory.ask("When was this built?", image="photo.jpg")
        >>> answer.text, [item.text for item in answer.items], answer.seconds

    Args:
        folder: made when missing.
        backbone: what answers: a name, a folder, or one that is loaded; the embedded model by default.
        encoder: what makes a memory of an item (`comem.load_encoder`); "none" keeps texts and images only.
        embedder: what makes vectors to search by: "toy", a folder, or ARCHITECTURE:PRETRAINED of open_clip.
        device: for models that are loaded here.
        form: how memories are written: bf16, fp32, fp16 or int8. Decided by the first item.
        vectors: past one machine: the URI of a Milvus that keeps the vectors (`http://host:19530`; its token
            in COMEM_MILVUS_TOKEN). By default they are searched in RAM. The folder remembers it.
        must_exist: refuse a folder without a memory, instead of making one.

    Raises:
        ValueError: a folder of other things, of a newer version, or made by other models.
        StorageError: no space left.
    """

    def __init__(
        self,
        folder: str | Path,
        backbone: Backbone | str | Path | None = None,
        encoder: MemoryEncoder | str | Path | None = None,
        embedder: Embedder | str | None = None,
        *,
        device: str | None = None,
        form: str = "bf16",
        vectors: str = "",
        must_exist: bool = False,
    ) -> None:
        self.folder = Path(folder)
        PLAIN_FORMS.check(form)  # before a folder is made
        self._table = Table(folder, must_exist=must_exist)
        try:
            self.models = Models.choose(backbone, encoder, embedder, self._table.about(), device)
            self._index = self._index_of(vectors)
        except (ValueError, OSError):
            self._table.close()
            raise
        self._form = form
        self._adding, self._checked, self._searched = threading.RLock(), False, False

    def _index_of(self, vectors: str) -> Index:
        if not vectors and "vectors" not in self._table.about():
            return Index(self._table)
        from comem.store.milvus import index_of

        return index_of(self._table, vectors, os.environ.get("COMEM_MILVUS_TOKEN", ""))

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._table)

    def warm_up(self, reader: bool = True) -> None:
        """Load the models and the vectors now, not with the first question.

        Args:
            reader: what answers and makes memories, too; without, only what searches.
        """
        known = self._table.about()
        if reader:
            self.models.check(known)
            self.models.mode(self.models.default_mode)
        else:
            self.models.check_embedder(known)
        self._searched, self._checked = True, reader and "embedder_fingerprint" in known
        self._index.refresh()

    def close(self) -> None:
        """Close the folder, so that another process may write to it."""
        self._index.close()
        self._table.close()

    # --- adding ---

    def add(  # noqa: PLR0913 (what mem0 has, and the seconds of a stretch)
        self,
        content: str | Path | Mapping[str, Any] | KnowledgeItem | VideoRef | Iterable[Any] | None = None,
        image: ImageLike | None = None,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        stretch: float = SECONDS,
        progress: Progress = quiet,
    ) -> Added:
        """Remember something; when this returns it is on the disk and can be asked about.

        Args:
            content: a text; a `KnowledgeItem`; a mapping with text, image, metadata; messages of a
                conversation (`{"role", "content"}`); several of these; or the path of an image, a video, a
                folder of both, an export, or any corpus that `comem corpus build` reads. A source that is
                added again brings what is new or changed, with the old version in the history. A video (a
                path or a `VideoRef`) becomes an item for each stretch: a frame, its subtitles, its times.
            image: a path, the encoded bytes, a Pillow image.
            user_id: whose it is, as are `agent_id` and `run_id`.
            agent_id: see `user_id`.
            run_id: see `user_id`.
            metadata: any JSON, to filter by.
            id: of your own; by default one is made.
            stretch: seconds of a video that become one item.
            progress: shows how far a folder is.

        Returns:
            The ids, and what was left out. Several things are added 32 at a time, each of these whole.

        Raises:
            ValueError: nothing to remember, an image that cannot be opened, or an id that is there already.
            StorageError: no space left, or another process writes.
        """
        scope, facts = Scope(user_id, agent_id, run_id), facts_of(metadata)
        source = source_of(content) if image is None else None
        if isinstance(source, Path) and source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
            content, image, source = None, source, None
        if source is not None:
            return self._add_source(Source(source, scope, facts, stretch), progress)
        items = several_of(content) if image is None else None
        if items is None:
            items = [item_of(content, image, facts, id)]
        elif id is not None:
            raise MemoryFolderError("one id for several things: leave it out, or give each its own")
        made = [
            replace(each, metadata={**facts, **each.metadata}, id=each.id or str(uuid.uuid4()))
            for each in items
        ]
        for start in range(0, len(made), BATCH):
            self._insert(made[start : start + BATCH], scope)
        return Added(tuple(each.id for each in made))

    def _add_source(self, source: Source, progress: Progress) -> Added:
        """What a folder, table or video holds; what cannot be read is left out and reported."""
        ids: list[str] = []
        unchanged = 0
        with progress(f"adding {source.name}", unit="items") as advance:
            for batch in batches(source.things(), BATCH):
                known = self._table.known([each.id for each in batch])
                fresh = [each for each in batch if each.id not in known]
                changed = [each for each in batch if each.id in known and known[each.id] != each.digest]
                unchanged += len(batch) - len(fresh) - len(changed)
                written = self._usable(fresh, lambda some: self._insert(some, source.scope), source)
                for each in changed:
                    written += self._usable([each], lambda one: self._replace(one[0], source.scope), source)
                ids += [each.id for each in written]
                advance(len(batch))
        for film in source.films:
            self._forget_rest(film, source)
        return Added(tuple(ids), unchanged, tuple(source.skipped))

    def _usable(
        self, items: list[Pending], write: Callable[[list[Pending]], None], source: Source
    ) -> list[Pending]:
        """Writes items together, or one by one where the models make no numbers of one of them."""
        try:
            if items:
                write(items)
            return items
        except NoNumbersError as error:
            if len(items) == 1:
                source.skipped.append(str(error))
                return []
        return [each for item in items for each in self._usable([item], write, source)]

    def _forget_rest(self, film: Film, source: Source) -> None:
        """Delete what was remembered of these seconds of a video and is no stretch of it any longer."""
        span: dict[str, Any] = {"gte": film.start, **({} if film.end is None else {"lt": film.end})}
        conditions, values = conditions_of(source.scope, {"file": film.name, "start": span})
        there = self._table.page(conditions, values, -1, 0)
        old = [
            each.id for each in there
            if each.id not in film.ids and each.id == source.film_id(film.name, each.metadata["start"])
        ]  # fmt: skip
        if old:
            self._table.remove(old)

    def _insert(self, items: Sequence[Pending], scope: Scope) -> None:
        self._table.begin_writing()  # refused before the work
        with self._adding:
            self._prepare()
            self._table.insert(self._rows(items, scope))

    def _replace(self, item: Pending, scope: Scope) -> None:
        self._table.begin_writing()
        with self._adding:
            self._prepare()
            self._table.replace(self._rows([item], scope)[0])

    def _prepare(self) -> None:
        """Note the models with the first item; refuse others afterwards."""
        if self._checked:
            return
        known = self._table.about()
        if "embedder_fingerprint" in known:
            self.models.check(known)
        else:
            self._table.note(self.models.facts(self._form))
        self._checked = True

    def _rows(self, items: Sequence[Pending], scope: Scope) -> list[Row]:
        """What is written of items: vectors and memories are made here."""
        embedder = self.models.embedder
        images = self._vectors([each.opened for each in items], embedder.embed_images, items)
        texts = self._vectors([each.text or None for each in items], embedder.embed_texts, items)
        memories = self._memories(items)
        return [
            Row(
                each.id, each.text, each.data, each.scope or scope, each.metadata, each.digest,
                (image, text), memory, count_words(each.text),
            )
            for each, image, text, memory in zip(items, images, texts, memories, strict=True)
        ]  # fmt: skip

    def _vectors(
        self, values: Sequence[Any], embed: Callable[[list[Any]], np.ndarray], items: Sequence[Pending]
    ) -> list[np.ndarray | None]:
        given = [n for n, value in enumerate(values) if value is not None]
        made = embed([values[n] for n in given]) if given else np.zeros((0, 1), np.float32)
        for row, fault in unusable(made).items():
            raise NoNumbersError(f"{name_of(items[given[row]])}: {fault}: check the embedder")
        vectors = dict(zip(given, made, strict=True))
        return [vectors.get(n) for n in range(len(values))]

    def _memories(self, items: Sequence[Pending]) -> list[bytes | None]:
        encoder = self.models.encoder
        if encoder is None:
            return [None] * len(items)
        # Ids of the batch, not of the memory: an item that is changed may come beside others.
        asked = [
            KnowledgeItem(str(n), each.text, each.reference, video=each.video) for n, each in enumerate(items)
        ]
        with self.models.alone:
            made = encoder.encode(asked).embeddings.float().cpu().numpy()  # (n, q, d)
        for row in map(int, np.flatnonzero(~np.isfinite(made).all(axis=(1, 2)))):
            raise NoNumbersError(
                f"{name_of(items[row])}: its memory has NaN or infinity: check the encoder, or its dtype"
            )
        return [row.tobytes() for row in form_of(self._table.about()).pack(made)]

    # --- changing ---

    def update(
        self, id: str, text: str | None = None, image: ImageLike | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> MemoryItem:  # fmt: skip
        """Change an item; what is not given stays.

        Args:
            id: of the item.
            text: the new text; the old one stays in the history.
            image: the new image.
            metadata: replaces all of it.

        Raises:
            ValueError: no such item, or an image that cannot be opened.
            StorageError: no space left, or another process writes.
        """
        self._table.begin_writing()
        with self._adding:
            old = self.get(id)
            pending = item_of(
                old.text if text is None else text, old.image if image is None else image,
                old.metadata if metadata is None else facts_of(metadata), id,
            )  # fmt: skip
            self._replace(pending, Scope(old.user_id, old.agent_id, old.run_id))
        return self.get(id)

    def delete(self, id: str) -> None:
        """Delete an item: text, image, vectors and memory are overwritten in the file.

        Raises:
            ValueError: no such item.
            StorageError: another process writes.
        """
        self._table.remove([id])
        self._index.refresh()

    def delete_all(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None,
        filters: Mapping[str, Any] | None = None, everything: bool = False,
    ) -> int:  # fmt: skip
        """Delete all items of somebody, or under filters; how many they were.

        Args:
            user_id: whose, as are `agent_id` and `run_id`.
            agent_id: see `user_id`.
            run_id: see `user_id`.
            filters: as of `search`.
            everything: delete all items of the memory, where nobody is named.

        Raises:
            ValueError: nobody is named, no filter is given, and `everything` is not.
            StorageError: another process writes.
        """
        conditions, values = conditions_of(Scope(user_id, agent_id, run_id), filters)
        if not conditions and not everything:
            raise MemoryFolderError(
                "delete_all: whose? Name a user_id, agent_id, run_id or filters, or say everything=True"
            )
        with self._adding:
            while ids := self._table.ids(conditions, values):
                try:
                    self._table.remove(ids)
                    break
                except NoItemError:  # another thread deleted one of them meanwhile
                    continue
        self._index.refresh()
        return len(ids)

    # --- reading ---

    def get(self, id: str) -> MemoryItem:
        """An item; ValueError if there is none of this id."""
        (found,) = self._table.get([id])
        return as_item(found, self._table.image(id))

    def get_all(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None,
        filters: Mapping[str, Any] | None = None, limit: int = 100, offset: int = 0, images: bool = True,
    ) -> list[MemoryItem]:  # fmt: skip
        """Items, the newest first.

        Args:
            user_id: only of this user, as are `agent_id` and `run_id`.
            agent_id: see `user_id`.
            run_id: see `user_id`.
            filters: as of `search`.
            limit: at most so many.
            offset: how many to pass over.
            images: read the images, too; without, `image` says only by being there that there is one.
        """
        conditions, values = conditions_of(Scope(user_id, agent_id, run_id), filters)
        found = self._table.page(conditions, values, limit, offset)
        if images:
            return [
                as_item(each, image) for each, image, _ in self._table.read([each.number for each in found])
            ]
        pictured = self._table.pictured([each.number for each in found])
        return [as_item(each, b" " if each.number in pictured else None) for each in found]

    def count(
        self, *, user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None
    ) -> int:
        """How many items there are, of somebody or of all."""
        return self._table.count(*Scope(user_id, agent_id, run_id).where())

    def history(self, id: str) -> list[dict[str, Any]]:
        """What happened to an item, the oldest first: event, time, old and new text (gone with the item)."""
        return self._table.history(id)

    def search(
        self,
        query: str | None = None,
        image: ImageLike | None = None,
        *,
        k: int = 10,
        filters: Mapping[str, Any] | None = None,
        threshold: float | None = None,
        weight: float = 0.5,
        **whose: str | None,
    ) -> list[MemoryItem]:
        """The items nearest to a text, an image, or both, best first.

        Args:
            query: a text.
            image: as of `add`.
            k: at most so many.
            filters: on metadata: `{"year": {"gte": 1200}, "OR": [{"place": "Oslo"}, {"place": "Bergen"}]}`.
            threshold: leave out what scores less.
            weight: the image's share where both are given.
            whose: user_id, agent_id, run_id: only theirs.

        Raises:
            ValueError: neither text nor image, or a filter that means nothing.
        """
        check_amount(k)
        reference = None if image is None else reference_of(image)
        looked_for = self._query(query, reference, weight)
        conditions, values = conditions_of(Scope(**whose), filters)
        (hits,), read = self._read(
            lambda: [dict(self._index.search(looked_for, k, conditions, values, threshold))]
        )
        return [as_item(*read[number][:2], score) for number, score in hits.items() if number in read]

    def _query(self, text: str | None, image: ImageRef | None, weight: float = 0.5) -> Query:
        if not text_of(text) and image is None:
            raise ValueError("an empty search: give a text, an image, or both")
        if not 0 <= weight <= 1:
            raise ValueError(f"weight={weight}: the image's share must be 0 to 1")
        if not self._searched:
            self.models.check_embedder(self._table.about())
            self._searched = True
        embedder = self.models.embedder
        picture = None if image is None else embedder.embed_images([image])
        words = embedder.embed_texts([text]) if text and text_of(text) else None
        for made in (picture, words):
            for fault in unusable(made).values() if made is not None else ():
                raise NoNumbersError(f"what is looked for: {fault}: check the embedder")
        one, other = (None if made is None else made[0] for made in (picture, words))
        return Query(one, other, words_of(text or ""), weight)

    # --- asking ---

    def ask(
        self, question: str, image: ImageLike | None = None, *,
        user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None,
        attention: bool = True, **options: Any,
    ) -> MemoryAnswer:  # fmt: skip
        """Answer a question from what is remembered.

        Args:
            question: a text.
            image: shown with it; items are searched by it unless `by` says otherwise.
            user_id: only from items of this user, as are `agent_id` and `run_id`.
            agent_id: see `user_id`.
            run_id: see `user_id`.
            attention: measure how much the answer attended to each memory, in one more pass.
            options: of `Ask` by name: mode, k, by, filters, threshold, max_tokens, temperature, stop,
                on_text …

        Raises:
            ValueError: an empty question, an unknown mode, an image that cannot be opened.
        """
        shown = None if image is None else reference_of(image)
        scope = Scope(user_id, agent_id, run_id)
        return self.ask_many([Ask(question, shown, scope=scope, attention=attention, **options)])[0]

    def stream(self, question: str, image: ImageLike | None = None, **options: Any) -> Iterator[str]:
        """The answer piece by piece, as `ask` would give it; the pieces joined are its text.

        Leaving the iterator stops the model.

        Args:
            question: a text.
            image: shown with it.
            options: as of `ask`.

        Raises:
            ValueError: as `ask`.
        """
        pieces: queue.Queue[str | BaseException | None] = queue.Queue()
        left = threading.Event()

        def work() -> None:
            try:
                self.ask(question, image, on_text=pieces.put, cancelled=left.is_set, **options)
                pieces.put(None)
            except BaseException as error:
                pieces.put(error)

        threading.Thread(target=work, daemon=True, name="memory-stream").start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            left.set()

    def ask_many(self, asks: Sequence[Ask]) -> list[MemoryAnswer]:
        """Answer questions; those that are decoded alike in one batch.

        Raises:
            ValueError: as `ask`, for whichever question.
        """
        start = time.perf_counter()
        asks = [each if each.mode else replace(each, mode=self.models.default_mode) for each in asks]
        found = self._retrieve(asks)
        answers: list[MemoryAnswer | None] = [None] * len(asks)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for row, each in enumerate(asks):
            groups.setdefault(each.batch, []).append(row)
        for rows in groups.values():
            made = self._answer([asks[row] for row in rows], [found[row] for row in rows], start)
            for row, answer in zip(rows, made, strict=True):
                answers[row] = answer
        return cast("list[MemoryAnswer]", answers)

    def _retrieve(self, asks: Sequence[Ask]) -> list[list[Hit]]:
        """The items of each question, best first."""
        from comem.modes import MODES

        for each in asks:
            MODES.check(each.mode)

        def look() -> list[dict[int, float]]:
            return [self._hits(each) for each in asks]

        hits, read = self._read(look)
        return [
            [Hit(*read[number], score) for number, score in some.items() if number in read] for some in hits
        ]

    def _hits(self, each: Ask) -> dict[int, float]:
        """Numbers and scores of the items of a question, best first."""
        if each.k < 1 or each.mode == "baseline" or (each.by == "text" and not each.question.strip()):
            return {}
        by_image = each.image is not None and each.by in ("auto", "image", "both")
        by_text = each.by in ("text", "both") or not by_image
        query = self._query(each.question if by_text else None, each.image if by_image else None)
        conditions, values = conditions_of(each.scope, each.filters)
        return dict(self._index.search(query, each.k, conditions, values, each.threshold))

    def _read(
        self, look: Callable[[], list[dict[int, float]]]
    ) -> tuple[list[dict[int, float]], dict[int, tuple[Found, bytes | None, bytes | None]]]:
        """What searches find, and the items; they look again where one was deleted between the two."""
        for _ in range(_LOOKS):
            hits = look()
            numbers = list(dict.fromkeys(number for some in hits for number in some))
            read = {each.number: (each, image, memory) for each, image, memory in self._table.read(numbers)}
            if len(read) == len(numbers):
                break
        return hits, read

    def _answer(
        self, asks: Sequence[Ask], found: Sequence[Sequence[Hit]], start: float
    ) -> list[MemoryAnswer]:
        """One batch, of one mode."""
        models, name = self.models, asks[0].mode
        examples = [
            Example(str(n), each.question, each.image, turns=each.turns) for n, each in enumerate(asks)
        ]
        contexts = [
            RetrievedContext(str(n), tuple(hit.item for hit in hits)) if hits else None
            for n, hits in enumerate(found)
        ]
        rows = [Spoken(each.max_tokens, each.stop, each.on_text, each.cancelled) for each in asks]
        with models.alone:
            mode = models.mode(name)
            watch = Watched(rows, mode.backbone.process.tokenizer, end_ids(mode.backbone.model))
            generation = replace(asks[0].generation, max_new_tokens=max(each.max_tokens for each in asks))
            bank = self._bank(found) if name == "comem" else None
            mode = mode.on(bank=bank, generation=generation, watch=watch)
            made = mode.answer_batch(examples, contexts)
            answers = []
            for n, (each, row, answer) in enumerate(zip(asks, rows, made, strict=True)):
                text = row.finish(answer.text)
                shares = self._attention(each, examples[n], found[n], bank, text) if each.attention else None
                items = tuple(
                    as_item(hit.found, hit.image, hit.score, None if shares is None else shares[at])
                    for at, hit in enumerate(found[n])
                )
                seconds = time.perf_counter() - start
                answers.append(
                    MemoryAnswer(
                        text, items, seconds, name, answer.prompt_tokens, answer.context_tokens,
                        len(row.tokens), row.ending or "stop",
                    )
                )  # fmt: skip
        return answers

    def found(self, ask: Ask) -> tuple[tuple[MemoryItem, ...], list[Tensor]]:
        """What a question is answered from, for readers elsewhere; ours is not loaded.

        Args:
            ask: the question.

        Returns:
            The items, best first, and in the comem mode the memory `(q, d)` of each, as the folder has it.

        Raises:
            ValueError: as `ask`.
        """
        import torch

        ask = ask if ask.mode else replace(ask, mode=self.models.default_mode)
        (hits,) = self._retrieve([ask])
        bank = self._bank([hits]) if ask.mode == "comem" else None
        kept = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            self.about().get("form", ""), torch.float32
        )
        memories = (
            [] if bank is None else list(bank.select([hit.found.id for hit in hits]).embeddings.to(kept))
        )
        return tuple(as_item(hit.found, hit.image, hit.score) for hit in hits), memories

    def about(self) -> dict[str, str]:
        """What the folder says of itself: version, models, how memories are written."""
        return self._table.about()

    def _bank(self, found: Sequence[Sequence[Hit]]) -> MemoryBank | None:
        """The memories of all items of a batch, as they lie in the folder; None where it keeps none."""
        import torch

        from comem.memory.bank import MemoryBank

        hits = {hit.found.id: hit for some in found for hit in some}
        facts = self._table.about()
        if not hits or "form" not in facts:
            return None
        form = form_of(facts)
        rows = np.frombuffer(b"".join(hit.memory or b"" for hit in hits.values()), np.uint8)
        memories = torch.from_numpy(form.unpack(rows.reshape(len(hits), form.stride)).copy())
        return MemoryBank(memories, tuple(hits), facts["encoder_fingerprint"])

    def _attention(
        self, each: Ask, example: Example, hits: Sequence[Hit], bank: MemoryBank | None, text: str
    ) -> list[float] | None:
        from comem.store.attention import attended

        if bank is None or not hits:
            return None
        mode = self.models.mode(each.mode)
        context = RetrievedContext(example.id, tuple(hit.item for hit in hits))
        (conversation,) = mode.conversations([example], [context])
        memories = list(bank.select([hit.found.id for hit in hits]).embeddings)
        return attended(self.models.backbone, self.models.injection, conversation, memories, text)

    def decide(
        self, state: Any, questions: Mapping[str, Any], *, assets: Mapping[str, ImageLike] | None = None,
        k: int = 3, by: By = "auto", filters: Mapping[str, Any] | None = None, **whose: str | None,
    ) -> Decided:  # fmt: skip
        """Answer typed questions with probabilities, from one forward pass each.

        Example:
            >>> asked = {"old": {"type": "noul", "instructions": "Was it built before 1300?"}}
            >>> memory.decide("Look: photo", asked, assets={"photo": "photo.jpg"}).answers["old"]["noul"]

        Args:
            state: what the questions are about: text, or any JSON.
            questions: by name: `{"type": "noul" | "choice" | "score", "instructions", "criteria"}`, as of
                transformers' decision pipeline.
            assets: images by the placeholder that stands for them in the state or the questions.
            k: items that are put before the model; 0 for none, and the answers are the pipeline's.
            by: search by the first image if there is one, else by the state ("auto"); image, text, both.
            filters: as of `search`.
            whose: user_id, agent_id, run_id: only theirs.

        Raises:
            ValueError: a question that is none, or an image that cannot be opened.
        """
        start = time.perf_counter()
        images = {name: reference_of(image) for name, image in (assets or {}).items()}
        text = state if isinstance(state, str) else json.dumps(state, ensure_ascii=False)
        ask = Ask(
            text,
            next(iter(images.values()), None),
            mode="comem",
            k=k,
            by=by,
            scope=Scope(**whose),
            filters=filters,
        )
        (hits,) = self._retrieve([ask])
        with self.models.alone:
            bank = self._bank([hits])
            memory = None if bank is None else bank.prefix()
            decided = self.models.decider.decide(state, questions, images, memory)
        items = tuple(as_item(hit.found, hit.image, hit.score) for hit in hits)
        return replace(decided, items=items, seconds=time.perf_counter() - start)

    # --- out again ---

    def export(self, folder: str | Path, **whose: str | None) -> int:
        """Write items.jsonl and images/ that any tool reads, `Memory.add(folder)` among them.

        Args:
            folder: made when missing.
            whose: user_id, agent_id, run_id: only theirs.

        Returns:
            How many items were written.

        Raises:
            ValueError: a folder in the memory's own.
        """
        folder = Path(folder)
        if self.folder.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise MemoryFolderError(
                f"{folder}: lies in the memory itself, where what is deleted would be left; give another"
            )
        conditions, values = Scope(**whose).where()
        count, lines = 0, []
        while page := self._table.page(conditions, values, 500, count):
            for found, image, _ in self._table.read([each.number for each in page]):
                row = as_item(found, image).as_dict()
                row["text"] = row.pop("memory")
                row.pop("has_image")
                if image is not None:
                    row["image"] = f"images/{found.number}{_ending(image)}"
                    with whole_file(folder / row["image"]) as path:
                        path.write_bytes(image)
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
            count += len(page)
        with whole_file(folder / ITEMS) as path:
            path.write_text("".join(lines), encoding="utf-8")
        write_json(folder / ABOUT, self._table.about())
        return count

    def check(self) -> list[str]:
        """What is wrong with the folder's file, in words; nothing if all is well."""
        return self._table.check()


def _ending(image: bytes) -> str:
    """The file ending of an encoded image, by its first bytes."""
    kinds = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
    return next((ending for mark, ending in kinds.items() if image.startswith(mark)), ".img")
