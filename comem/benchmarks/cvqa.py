"""CVQA: four options, asked in the language of the place that the picture is from (10,374 in test).

A record (parquet, one split, `test`): image (embedded), ID, Subset ("('Spanish', 'Spain')"), Question,
Translated Question, Options, Translated Options (four each), Label (index of the right option from 0),
Category, Image Type, Image Source, License. 39 country-language pairs in 31 languages; the paper uses five
(`PAPER_PAIRS`), and so does this row unless another split is named: `test` (all pairs) or one pair,
`test:Spanish-Mexico`. Copies of the data whose labels are withheld have Label -1: they can be predicted,
and scored on EvalAI only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark
from comem.benchmarks.files import question_text
from comem.benchmarks.hub import HubFiles
from comem.benchmarks.parquet import embedded_image, find_parquet, read_parquet
from comem.evaluation import cvqa
from comem.records import RecordError, unique
from comem.types import Example, Report

PAPER_PAIRS = ("Chinese-China", "Spanish-Spain", "Russian-Russia", "Bulgarian-Bulgaria", "Portuguese-Brazil")
#: ISO 639 codes of the languages, as knowledge items name theirs.
CODES = dict(
    pair.split("=")
    for pair in (
        "Amharic=am Bengali=bn Breton=br Bulgarian=bg Chinese=zh Egyptian_Arabic=arz Filipino=fil Hindi=hi "
        "Igbo=ig Indonesian=id Irish=ga Japanese=ja Javanese=jv Kinyarwanda=rw Korean=ko Malay=ms Marathi=mr "
        "Minangkabau=min Mongolian=mn Norwegian=no Oromo=om Portuguese=pt Romanian=ro Russian=ru Sinhala=si "
        "Spanish=es Sundanese=su Swahili=sw Tamil=ta Telugu=te Urdu=ur"
    ).split()
)
_COLUMNS = ("image", "ID", "Subset", "Question", "Options", "Label")
_OPTIONAL = ("Translated Question", "Translated Options", "Category", "Image Type", "Image Source", "License")


def load(
    path: str | Path, *, image_folder: str | Path | None, split: str | None, question_types: str | Path | None
) -> Iterator[Example]:
    """Examples of the parquet files (see `Benchmark.load`); the group is the pair, `Language-Country`."""
    pair = (split or "").partition(":")[2]
    wanted = PAPER_PAIRS if split is None else (pair,) if pair else None
    files = find_parquet(path, "test")
    place, seen, count = files[0].parent, dict[str, None](), 0
    for row in unique(read_parquet(files, _COLUMNS, _OPTIONAL), "ID", place):
        language, country = cvqa.pair_of(row)
        group = f"{language}-{country}"
        seen[group] = None
        if wanted is None or group in wanted:
            count += 1
            yield _example(row, language, group, place)
    if not count:
        there = ", ".join(seen) or "no questions"
        raise RecordError(
            f"{place}: no question of {', '.join(wanted or ('any pair',))}; the files have {there}"
        )


def _example(row: Mapping[str, Any], language: str, group: str, place: Path) -> Example:
    name, options = str(row["ID"]), row["Options"]
    if not isinstance(options, list) or len(options) < 2:
        raise RecordError(f"{place}: {name!r} has no Options; expected a list of four")
    texts = tuple(map(str, options))
    label = row["Label"]
    known = isinstance(label, int) and 0 <= label < len(texts)
    return Example(
        id=name,
        question=question_text(row, "Question", name, place),
        image=embedded_image(row["image"], place, name),
        answers=(texts[label],) if known else (),
        choices=texts,
        language=CODES.get(language, language.lower()),
        group=group,
        meta={key: value for key, value in row.items() if key != "image"},
    )


def score(predictions: Mapping[str, str], examples: Sequence[Example]) -> Report:
    """Accuracy by pair, and over all questions (micro).

    Raises:
        ValueError: labels are withheld, or no prediction belongs to an example.
    """
    for example in examples:
        if example.meta.get("Label") == -1:
            raise RecordError(
                f"reference {example.id!r} has Label -1: this copy of CVQA withholds the answers. Send the "
                "predictions to https://eval.ai/web/challenges/challenge-page/2305, or fetch the data again"
            )
    return cvqa.evaluate(predictions, {example.id: example.meta for example in examples})


ROWS = {
    "cvqa": Benchmark(
        name="cvqa",
        source="https://huggingface.co/datasets/afaji/cvqa, test (10,374 questions; the paper's five pairs: "
        f"{', '.join(PAPER_PAIRS)})",
        licence="each question its own (in the record); all free for research",
        paper="Romero et al. 2024, arXiv 2406.05967",
        languages=("bg", "es", "pt", "ru", "zh"),
        style="number",
        loader=load,
        scorer=score,
        groups="country-language pair, as Spanish-Spain",
        headline=("overall",),
        splits=("test",),
        hub=HubFiles("afaji/cvqa"),
        files="data/test-*.parquet of https://huggingface.co/datasets/afaji/cvqa",
        fallback_language="en",
    )
}
