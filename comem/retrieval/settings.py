"""What the commands of retrieval are told; light to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from comem.config import option, take_paths
from comem.registry import Registry
from comem.retrieval.corpus.rules import Duplicates
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.download.settings import DownloadSettings
from comem.retrieval.plan import IndexPlan, choose_plan, plan_for

# The paper says "CLIP", image tower, and names no variant (nor does its code): the common choice.
DEFAULT_EMBEDDER = "ViT-L-14:openai"
AUTO = "auto"
_KNOWLEDGE = "knowledge"  # heading in the help
#: Rows are functions or classes that take `RetrieverSettings` (or a subclass of it) and give a `Retriever`.
RETRIEVERS: Registry[Callable[[Any], Any]] = Registry(
    "retriever",
    {name: f"comem.retrieval.retriever:open_{name}" for name in ("faiss", "milvus", "precomputed", "bm25")}
    | {"articles": "comem.retrieval.rerank:open_articles", "memory": "comem.bank.keys:open_memory"},
)


@dataclass(frozen=True)
class InfoSettings:
    """What a corpus folder holds, and what was dropped.

    Attributes:
        corpus: made by comem corpus build.
        verify: read all of it and compare the checksum.
    """

    corpus: Path = option(positional=True, metavar="DIR")
    verify: bool = False

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True, kw_only=True)
class CorpusDownloadSettings(DownloadSettings):
    """Fetch the images that a corpus has URLs of; run again, it asks for what is missing.

    Attributes:
        corpus: made by comem corpus build.
        engine: ray: several workers (RAY_ADDRESS).
        workers: of Ray, on this machine.
    """

    corpus: Path = option(positional=True, metavar="DIR")
    engine: Literal["local", "ray"] = "local"
    workers: int = 2

    def __post_init__(self) -> None:
        take_paths(self)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """Vectors of a corpus's images and texts, for the index and for other tools; run again, it goes on.

    Attributes:
        corpus: made by comem corpus build.
        what: what is embedded.
        embedder: "toy", a folder, or `ARCHITECTURE:PRETRAINED` of open_clip.
        precision: of the model.
        store: precision of the files.
        shard_size: images or texts a shard.
        batch_size: images or texts a call of the model.
        engine: ray: several workers (RAY_ADDRESS).
        workers: of Ray, on this machine.
        gpus: of each Ray worker.
    """

    corpus: Path = option(positional=True, metavar="DIR")
    what: Literal["images", "texts", "both"] = "images"
    embedder: str = DEFAULT_EMBEDDER
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    store: Literal["fp16", "fp32"] = "fp16"
    shard_size: int = 4096
    batch_size: int = 64
    engine: Literal["local", "ray"] = "local"
    workers: int = 2
    gpus: float = 0.0

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True)
class SearchSettings:
    """How hard to search; none of it matters to an exact index.

    Attributes:
        probes: inverted lists looked into; 0 for one in 64 of them, at least 16 and at most 128.
        ef: HNSW's list of candidates.
        candidates: vectors ranked again by their float16 copies, for each of the k wanted.
    """

    probes: int = 0
    ef: int = 64
    candidates: int = 10

    def __post_init__(self) -> None:
        if self.probes < 0 or self.ef < 1 or self.candidates < 1:
            raise ValueError(
                f"probes {self.probes} must be 0 or more, ef {self.ef} and candidates"
                f" {self.candidates} at least 1"
            )


@dataclass(frozen=True)
class FaissSettings:
    """How vectors are made and indexed; saved with the index.

    Attributes:
        factory: a FAISS factory string ("Flat" is exact; "HNSW32", "IVF256,PQ32", …), or "auto": chosen
            from the number of vectors and `memory_gb`.
        shard_size: images a resumable shard.
        batch_size: images a call of the model.
        half: keep the embeddings as float16.
        memory_gb: memory (GiB) that searching, and the vectors in work while building, may take.
        search: how hard to search; saved with the index.
        seed: of the sample that an index is trained on.
    """

    factory: str = option(AUTO, also=("--factory",))
    shard_size: int = 4096
    batch_size: int = 64
    half: bool = False
    memory_gb: float = option(4.0, also=("--memory-gb",), metavar="GIB")
    search: SearchSettings = field(default_factory=SearchSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.memory_gb > 0:
            raise ValueError(f"memory_gb is {self.memory_gb}; must be above 0")

    @property
    def memory(self) -> int:
        """The memory budget in bytes."""
        return int(self.memory_gb * 2**30)

    def plan(self, count: int, dimension: int) -> IndexPlan:
        """The index for so many vectors."""
        if self.factory == AUTO:
            return choose_plan(count, dimension, self.memory)
        return plan_for(self.factory, count, dimension)


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """Corpora to a knowledge base with an index; run again, it goes on.

    Attributes:
        corpus: what comem corpus build takes (files, folders, data sets), or one folder that it made.
        output: the index folder.
        images: where relative image paths start, or downloaded images lie; beside each file by default.
        embedder: "toy", a folder, or `ARCHITECTURE:PRETRAINED` of open_clip (ViT-L-14:openai).
        languages: keep rows of these languages; empty keeps all.
        max_chars: cut passages to this length; 0 leaves them whole.
        unique: of rows that show the same image keep all (none), or one for each passage or language, or one.
        on_duplicate: what happens to a repeated id.
        keep_partial: go on with what could be read of a cut shard.
        index: how vectors are made and stored.
    """

    corpus: tuple[str, ...] = option(metavar="SOURCE")
    output: Path = option(metavar="DIR")
    images: Path | None = option(None, metavar="DIR")
    embedder: str = DEFAULT_EMBEDDER
    languages: tuple[str, ...] = option((), metavar="CODE")
    max_chars: int = 0
    unique: Duplicates = "none"
    on_duplicate: Literal["refuse", "drop"] = "refuse"
    keep_partial: bool = False
    index: FaissSettings = field(default_factory=FaissSettings)

    def __post_init__(self) -> None:
        take_paths(self)
        if isinstance(self.corpus, (str, Path)):  # one; its letters are no corpora
            object.__setattr__(self, "corpus", (str(self.corpus),))
        if self.max_chars < 0:
            raise ValueError(f"max_chars is {self.max_chars}; at least 1, or 0 for no limit")

    @property
    def reading(self) -> CorpusSettings:
        """How the corpora are read."""
        return CorpusSettings(
            sources=self.corpus, output=self.output, images=self.images, languages=self.languages,
            max_chars=self.max_chars, unique=self.unique, on_duplicate=self.on_duplicate,
            keep_partial=self.keep_partial,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class QuerySettings:
    """The items nearest to an image, to a text, or to both.

    Attributes:
        index: made by comem index build.
        image: an image file.
        text: words.
        weight: the image's share where both are given.
        k: items.
        html: write a page with thumbnails here, too.
        embedder: only the one that made the index; needed when it has moved.
        languages: only items in these.
    """

    index: Path = option(metavar="DIR")
    image: Path | None = option(None, metavar="FILE")
    text: str | None = None
    weight: float = 0.5
    k: int = 5
    html: Path | None = option(None, metavar="FILE")
    embedder: str | None = None
    languages: tuple[str, ...] = option((), metavar="CODE")

    def __post_init__(self) -> None:
        take_paths(self)
        if self.image is None and self.text is None:
            raise ValueError("give --image FILE, --text TEXT, or both")


@dataclass(frozen=True, kw_only=True)
class RecallSettings:
    """Recall: of a folder of images, of an index against exact search, or of items that are known.

    Attributes:
        images: a folder of images, each asked for by distorted copies.
        distortions: of --images: crop, resize, jpeg, combined, colour, rotation (all).
        index: an index, against exact search over it.
        queries: of --index.
        contexts: made by comem retrieve, or EchoSight's .json of retrieved articles.
        relevant: lines of example_id, relevant (ids); or the questions as EchoSight's .csv: recall by URL.
        knowledge: the index or corpus folder of contexts, where recall is by URL.
        embedder: as in index build.
        seed: of distortions and of the sample of an index.
        output: write the numbers as JSON, too.
        baseline: compare with raw 16 x 16 pixels.
    """

    images: Path | None = option(None, metavar="DIR")
    distortions: tuple[str, ...] = option((), metavar="NAME", choices="comem.retrieval.evaluate:DISTORTIONS")
    index: Path | None = option(None, metavar="DIR")
    queries: int = 200
    contexts: Path | None = option(None, metavar="FILE")
    relevant: Path | None = option(None, metavar="FILE")
    knowledge: Path | None = option(None, metavar="DIR")
    embedder: str = "toy"
    seed: int = 0
    output: Path | None = option(None, metavar="FILE")
    baseline: bool = False

    def __post_init__(self) -> None:
        take_paths(self)
        given = [self.images is not None, self.index is not None, self.contexts is not None]
        if sum(given) != 1 or (self.contexts is None) != (self.relevant is None):
            choices = "--images DIR, --index DIR, and --contexts FILE with --relevant FILE"
            raise ValueError(f"give one of {choices}")


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """The vectors of a knowledge base to Milvus, which then searches in place of FAISS.

    Attributes:
        index: an index or corpus folder.
        uri: http://host:19530, or FILE.db (milvus-lite).
        collection: replaced when it is there.
        embedder: the one that made the vectors.
        index_type: of Milvus: AUTOINDEX, HNSW, IVF_FLAT, …
    """

    index: Path = option(metavar="DIR")
    uri: str
    collection: str = "comem"
    embedder: str = "toy"
    index_type: str = "AUTOINDEX"

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True)
class VerifySettings:
    """Compare every checksum of an index folder; exit code 1 for damage.

    Attributes:
        index: the folder.
    """

    index: Path = option(positional=True, metavar="DIR")

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True, kw_only=True)
class RetrieverSettings:
    """Which retriever finds the items of questions, and where.

    Attributes:
        retriever: who finds them; by default "precomputed" with contexts, "milvus" with milvus, else "faiss".
        index: an index folder (bm25, contexts: a corpus folder will do).
        embedder: only the one that made the index; needed when it has moved.
        contexts: results made before, by comem retrieve or by another system.
        milvus: search there (comem index push): http://…, or a .db file.
        collection: of Milvus.
        image_weight: share of the question's image in the query; the rest is its words (faiss, milvus,
            articles). 1: the image alone, as in the paper; 0: the words alone.
        retriever_options: what a retriever of your own needs.
    """

    retriever: str = option(
        "", group=_KNOWLEDGE, metavar="NAME", choices="comem.retrieval.settings:RETRIEVERS"
    )
    index: Path | None = option(None, group=_KNOWLEDGE, metavar="DIR")
    embedder: str | None = option(None, group=_KNOWLEDGE)
    contexts: Path | None = option(None, group=_KNOWLEDGE, metavar="FILE")
    milvus: str | None = option(None, group=_KNOWLEDGE, metavar="URI")
    collection: str = option("comem", group=_KNOWLEDGE)
    image_weight: float = option(1.0, group=_KNOWLEDGE)
    retriever_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def softmax(self) -> float | None:
        """The temperature of a softmax over scores; None leaves them."""
        return None

    def __post_init__(self) -> None:
        take_paths(self)

    @property
    def index_folder(self) -> Path:
        """The index.

        Raises:
            ValueError: none was named.
        """
        if self.index is None:
            raise ValueError("this mode needs knowledge: give --index DIR (comem index build makes one)")
        return self.index


@dataclass(frozen=True, kw_only=True)
class RetrieveSettings(RetrieverSettings):
    """Find knowledge items for the images (bm25: the words) of questions.

    Attributes:
        questions: JSONL with ids and image paths, or EchoSight's CSV.
        images: where relative image paths start; beside the file by default.
        k: items a question, as in the paper.
        output: JSONL; a second run goes on.
        entries: write the articles found as one JSON object too, as EchoSight and OMGM exchange them.
        languages: only items in these; own: in each question's language.
        temperature: turn scores into a softmax over the items, with this temperature.
        batch_size: questions a call.
    """

    questions: Path = option(metavar="FILE")
    images: Path | None = option(None, metavar="DIR")
    k: int = 10
    output: Path | None = option(None, metavar="FILE")
    entries: Path | None = option(None, metavar="FILE")
    languages: tuple[str, ...] = option((), metavar="CODE")
    temperature: float | None = None
    batch_size: int = 64

    @property
    def softmax(self) -> float | None:
        """The temperature."""
        return self.temperature
