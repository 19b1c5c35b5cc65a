"""COCO captioning: a sentence about a picture, compared with people's by BLEU and CIDEr.

Three published forms: the original `captions_val2014.json` (images, annotations), Karpathy's
`dataset_coco.json` (splits train, restval, val, test; sentences with raw texts), and parquet
(lmms-lab/COCO-Caption: question_id, image, answer). Pictures of the first two lie in the image folder, in
COCO's own folders or flat.

BLEU and CIDEr are pycocoevalcap's, the official code. Its tokens come from Stanford's tokenizer, in Java;
where there is no Java, ours splits the same way but for rare forms, and the report says so.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer
from comem.benchmarks.files import (
    DataFiles,
    HubFiles,
    embedded_image,
    find_parquet,
    locate,
    named_image,
    read_parquet,
)
from comem.benchmarks.scoring import (
    Answers,
    Rows,
    ScoreFiles,
    checked_text,
    match,
    read_predictions,
    scores_of,
)
from comem.io.files import RecordError, read_json, unique
from comem.types import Example, ImageRef, Report

QUESTION = "Provide a one-sentence caption for the provided image."
_NAMES = ("captions_val2014.json", "dataset_coco.json", "captions_val2017.json")
NOTE = (
    "tokens without Java: ours differ from Stanford's (the official ones) in rare forms, and so may scores; "
    "install a Java runtime for the official ones"
)


def evaluate(captions: Answers, rows: Rows, benchmark: str = "coco_caption") -> Report:
    """BLEU-1 to 4 and CIDEr over the answered pictures, in percent.

    Args:
        captions: by the picture's id.
        rows: with `captions`, the references.
        benchmark: the name in the report.

    Raises:
        ValueError: pycocoevalcap is not installed; says how.
    """
    bleu, cider = _scorers()
    names = match(captions, rows)
    java = shutil.which("java") is not None
    tokens = _stanford if java else _ours
    said = tokens({name: [captions[name]] for name in names})
    references = tokens({name: [str(each) for each in rows[name]["captions"]] for name in names})
    by_length, _ = bleu.compute_score(references, said, verbose=0)
    corpus, each = cider.compute_score(references, said)
    metrics: dict[str, Any] = {f"bleu_{n}": 100 * float(value) for n, value in enumerate(by_length, start=1)}
    metrics |= {"cider": 100 * float(corpus), "answered": len(names), "total": len(rows)}
    metrics |= {"tokenizer": "Stanford's (Java)" if java else "ours"}
    if not java:
        metrics["notes"] = [NOTE]
    values = {name: float(value) for name, value in zip(names, each, strict=True)}
    metrics["cider_missing_wrong"] = 100 * sum(values.values()) / len(rows)
    return Report(benchmark, metrics, len(rows), {"cider": scores_of(values, rows)})


def _scorers() -> tuple[Any, Any]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise ValueError(
            f"captions are scored by pycocoevalcap ({error}); install it: pip install 'comem[captions]'"
        ) from error
    return Bleu(4), Cider()


Texts = Mapping[str, Sequence[str]]


def _stanford(texts: Texts) -> dict[str, list[str]]:
    """By Stanford's tokenizer, as pycocoevalcap calls it."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    lines = {name: [{"caption": " ".join(text.split())} for text in each] for name, each in texts.items()}
    found: dict[str, list[str]] = PTBTokenizer().tokenize(lines)
    return found


def _ours(texts: Texts) -> dict[str, list[str]]:
    return {name: [" ".join(treebank(text)) for text in each] for name, each in texts.items()}


_ENDINGS = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b|\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b")
_LETTER = r"[\w\u0300-\u036f]"
#: Abbreviations keep their full stop; words may have hyphens, points and slashes in them.
_TOKEN = re.compile(
    rf"(?:[a-z]\.){{2,}}|\b(?:mr|mrs|ms|dr|st|no|jr|sr|vs)\.|n't|'(?:s|re|ve|ll|d|m)\b"
    rf"|{_LETTER}+(?:[-.'/,:]{_LETTER}+)*|[^\w\s]"
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
#: What is no punctuation to the official code.
_KEPT = re.compile(r"[\w$%&#@+*=]")


def treebank(text: str) -> list[str]:
    """Lower-case words in the manner of the Penn treebank, without punctuation, as Stanford's tokenizer."""
    text = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    text = _ENDINGS.sub(lambda found: " " + " ".join(filter(None, found.groups())), text)
    words = (_BRACKETS.get(word, word) for word in _TOKEN.findall(text))
    return [word for word in words if _KEPT.search(word)]


def read(files: ScoreFiles) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Captions and references by the picture's id; predictions in the official form, or rows with an id.

    Raises:
        RecordError: a picture twice, or a caption that is not text.
    """
    path = files.path("predictions")
    rows = {
        example.id: dict(example.meta)
        for example in load(DataFiles(files.path("references"), split=files.split))
    }
    content = read_json(path) if str(path).removesuffix(".gz").endswith(".json") else None
    if isinstance(content, list) and content and isinstance(content[0], dict) and "image_id" in content[0]:
        named = unique(content, "image_id", path)
        return {
            str(row["image_id"]): checked_text(row.get("caption"), str(row["image_id"]), path)
            for row in named
        }, rows
    return read_predictions(path, whole=files.whole), rows


SPLITS = ("val", "test", "train", "restval")


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of any of the forms: a picture each, its captions as answers."""
    path, split = files.path, files.split
    if path.suffix == ".parquet" or (path.is_dir() and not any((path / name).is_file() for name in _NAMES)):
        yield from _of_parquet(find_parquet(path, split or SPLITS[0]))
        return
    file = locate(path, _NAMES)
    content = read_json(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("images"), list):
        raise RecordError(
            f"{file}: expected images, and annotations or sentences, as captions_val2014.json has"
        )
    rows = (
        _original(content, file)
        if "annotations" in content
        else _karpathy(content["images"], split or "test")
    )
    for name, picture, captions in rows:
        image = _picture(files.images, picture, file)
        yield _example(name, image, captions, file)


def _original(content: Mapping[str, Any], file: Path) -> Iterator[tuple[str, str, list[str]]]:
    captions: dict[str, list[str]] = {}
    for each in content["annotations"]:
        captions.setdefault(str(each["image_id"]), []).append(str(each["caption"]))
    for row in unique(content["images"], "id", file):
        yield str(row["id"]), str(row["file_name"]), captions.get(str(row["id"]), [])


def _karpathy(images: Iterable[Mapping[str, Any]], split: str) -> Iterator[tuple[str, str, list[str]]]:
    for row in images:
        if row.get("split") == split:
            picture = f"{row.get('filepath', '')}/{row['filename']}".lstrip("/")
            yield str(row["cocoid"]), picture, [str(each["raw"]) for each in row["sentences"]]


def _of_parquet(parts: Sequence[Path]) -> Iterator[Example]:
    for row in unique(read_parquet(parts, ("question_id", "image", "answer")), "question_id", parts[0]):
        name = str(int(Path(str(row["question_id"])).stem.rpartition("_")[2]))
        image = embedded_image(row["image"], parts[0], name)
        yield _example(name, image, [str(each) for each in row["answer"] or ()], parts[0])


def _picture(folder: Path | None, name: str, file: Path) -> ImageRef | None:
    """COCO's picture: as it is named, below the folder of its year, or flat."""
    if folder is None:
        return None
    flat = Path(name).name
    year = flat.rpartition("_")[0].removeprefix("COCO_")
    places = [place for place in (name, f"{year}/{flat}", flat) if (folder / place).is_file()]
    return named_image(folder, (places or [name])[0], file)


def _example(name: str, image: ImageRef | None, captions: list[str], file: Path) -> Example:
    captions = [text for each in captions if (text := each.strip())]
    if not captions:
        raise RecordError(f"{file}: picture {name!r} has no caption; the test split of the original has none")
    return Example(
        id=name, question=QUESTION, image=image, answers=tuple(dict.fromkeys(captions)),
        meta={"captions": captions},
    )  # fmt: skip


ROW = Benchmark(
    name="coco_caption",
    loader=load,
    scorer=Scorer(evaluate, "pycocoevalcap (the official code): BLEU-1 to 4 over all captions, CIDEr"),
    reader=read,
    source="https://cocodataset.org/#download, captions_val2014.json; Karpathy's splits: dataset_coco.json; "
    "parquet: https://huggingface.co/datasets/lmms-lab/COCO-Caption",
    licence="CC BY 4.0 (annotations); pictures: Flickr's terms",
    paper="Chen et al. 2015, arXiv 1504.00325",
    style="bare",
    groups="none",
    headline=("cider", "bleu_4", "bleu_1"),
    splits=SPLITS,
    hub=HubFiles("lmms-lab/COCO-Caption"),
    files="captions_val2014.json of annotations_trainval2014.zip, dataset_coco.json, or "
    "data/val-*.parquet of https://huggingface.co/datasets/lmms-lab/COCO-Caption",
    images="COCO's val2014 (embedded in the parquet files)",
)
