"""CVQA: four options, asked in the language of the place that the picture is from (10,374 in test).

A record (parquet, one split, `test`): image (embedded), ID, Subset ("('Spanish', 'Spain')"), Question,
Translated Question, Options, Translated Options (four each), Label (index of the right option from 0),
Category, Image Type, Image Source, License. 39 country-language pairs in 31 languages; the paper uses five
(`PAPER_PAIRS`), and so does this row unless another split is named: `test` (all pairs) or one pair,
`test:Spanish-Mexico`. Copies of the data whose labels are withheld have Label -1: they can be predicted,
and scored on EvalAI only.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from comem.benchmarks.base import Benchmark, Scorer, authors_scorer
from comem.benchmarks.files import DataFiles, HubFiles, parquet_rows, question_text
from comem.benchmarks.scoring import Answers, Row, Rows, match, mean_report, means_by, read_files
from comem.benchmarks.text import after_colon, first_box
from comem.io.files import RecordError
from comem.types import Example, Report

#: A conclusion stands in so many last characters.
_TAIL = 200
_EDGES = " \t\r\n.,;:!?\"'`*()[]{}。，；：！？、「」“”«»"
_WORDS = "option|answer|opción|respuesta|opção|resposta|вариант|ответ|опция|отговор|选项|答案|第"
_LINKS = r"[:：=]|\b(?:is|es|é|е)\b|是|为"
#: "2", "Option 2", "the answer is 2", "B" at the end of a text whose edges are trimmed.
_ENDING = re.compile(rf"^(?:.*(?:{_WORDS}|{_LINKS})[\s(\[*\"']*)?(\d|[A-Z])$", re.DOTALL | re.IGNORECASE)
#: "2. perro", "2) perro", "(B) perro"; not "2.5", not "A dog".
_LEADING = re.compile(r"^[(\[*\s]*(\d|[A-Z])\s*[.):：、\]]+(?!\d)")


def parse_option(output: str, options: Sequence[str]) -> int | None:
    """The index of the option that an answer chooses, or None.

    Args:
        output: the short answer (see `comem.benchmarks.text.extract_answer`).
        options: their texts, in the order in which they were asked.
    """
    trimmed = output.strip(_EDGES)
    if len(trimmed) == 1 and trimmed.isdecimal() and (index := _index(trimmed, len(options))) is not None:
        return index
    said, texts = _fold(output), [_fold(option) for option in options]
    if said in texts:
        return texts.index(said)
    for hit in (_LEADING.match(output), _ENDING.match(trimmed[-_TAIL:])):
        if hit is not None and (index := _index(hit[1], len(options))) is not None:
            return index
    inside = {index for index, text in enumerate(texts) if text and text in said}
    longest = {i for i in inside if not any(texts[i] != texts[j] and texts[i] in texts[j] for j in inside)}
    return longest.pop() if len(longest) == 1 else None


def _index(mark: str, count: int) -> int | None:
    """The option of a number from 1 or a letter from A, where there is such an option."""
    index = int(mark) - 1 if mark.isdecimal() else ord(mark.upper()) - ord("A")
    return index if 0 <= index < count else None


def _fold(text: str) -> str:
    """Equal for texts that differ in case, blanks (also around commas) and composition of letters."""
    text = unicodedata.normalize("NFC", text).casefold().strip(_EDGES)
    return re.sub(r"\s*([,;/])\s*", r"\1", " ".join(text.split()))


def pair_of(row: Row, where: str = "") -> tuple[str, str]:
    """Language and country of a record, from its Subset, "('Spanish', 'Spain')" or a list.

    Raises:
        RecordError: the record has none.
    """
    subset = row.get("Subset")
    if isinstance(subset, str) and subset.startswith("("):
        try:
            subset = ast.literal_eval(subset)
        except (ValueError, SyntaxError):
            subset = None
    if isinstance(subset, (list, tuple)) and len(subset) == 2:
        return str(subset[0]), str(subset[1])
    raise RecordError(
        f"{where}question {row.get('ID')!r} has Subset {row.get('Subset')!r}; "
        "expected \"('Language', 'Country')\""
    )


def right_option(row: Row, name: str) -> int:
    """The index of the right option.

    Raises:
        RecordError: the record has no options, or its Label is not the index of one.
    """
    options, label = row.get("Options"), row.get("Label")
    if not isinstance(options, list) or not options:
        raise RecordError(f"question {name!r} has no Options; expected the list of its answers")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(options):
        raise RecordError(
            f"question {name!r} has Label {label!r}; expected 0 to {len(options) - 1}. Where all are -1, "
            "this copy of CVQA withholds the answers: send the predictions to "
            "https://eval.ai/web/challenges/challenge-page/2305, or fetch the data again"
        )
    return label


def evaluate(answers: Answers, rows: Rows, benchmark: str = "cvqa") -> Report:
    """Score short answers by ID against the records by ID: accuracy over all questions, and by pair."""
    chosen = {name: parse_option(answers[name], rows[name]["Options"]) for name in match(answers, rows)}
    values = {name: float(choice == right_option(rows[name], name)) for name, choice in chosen.items()}
    return report_of(values, rows, benchmark, sum(choice is None for choice in chosen.values()))


def evaluate_as_authors(outputs: Answers, rows: Rows, benchmark: str = "cvqa") -> Report:
    """As coded: the first box, else what follows the last colon, must be the number and no more."""
    values, unparsable = {}, 0
    for name in match(outputs, rows):
        content = first_box(outputs[name])
        said = after_colon(outputs[name]) if content is None else content
        values[name] = float(said == str(right_option(rows[name], name) + 1))
        unparsable += said not in {str(number + 1) for number in range(len(rows[name]["Options"]))}
    return report_of(values, rows, benchmark, unparsable)


def report_of(values: Mapping[str, float], rows: Rows, benchmark: str, unparsable: int) -> Report:
    """The report over what each answered question earned; a pair without an answer has 0."""
    pairs = {name: pair_of(row) for name, row in rows.items()}
    answered = means_by(values, lambda name: "-".join(pairs[name]))
    by_pair = {pair: answered.get(pair, 0.0) for pair in sorted({"-".join(pair) for pair in pairs.values()})}
    more = {"by_pair": by_pair, "macro": sum(by_pair.values()) / len(by_pair), "unparsable": unparsable}
    group, language = (lambda name: "-".join(pairs[name])), (lambda name: pairs[name][0])
    return mean_report(benchmark, "overall", values, rows, group, language, **more)


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
_COLUMNS = ("ID", "Subset", "Question", "Options", "Label")
_OPTIONAL = ("Translated Question", "Translated Options", "Category", "Image Type", "Image Source", "License")


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of the parquet files; the group is the pair, `Language-Country`."""
    pair = (files.split or "").partition(":")[2]
    wanted = PAPER_PAIRS if files.split is None else (pair,) if pair else None
    seen, count = dict[str, None](), 0
    for row, name, image, place in parquet_rows(files.path, "test", "ID", _COLUMNS, _OPTIONAL):
        language, country = pair_of(row, f"{place}: ")
        group = f"{language}-{country}"
        seen[group] = None
        if wanted is None or group in wanted:
            count += 1
            options, label = row["Options"], row["Label"]
            if not isinstance(options, list) or len(options) < 2:
                raise RecordError(f"{place}: {name!r} has no Options; expected a list of four")
            texts = tuple(map(str, options))
            yield Example(
                id=name,
                question=question_text(row, "Question", name, place),
                image=image,
                answers=(texts[label],) if isinstance(label, int) and 0 <= label < len(texts) else (),
                choices=texts,
                language=CODES.get(language, language.lower()),
                group=group,
                meta=row,
            )
    if not count:
        there, wish = ", ".join(seen) or "no questions", ", ".join(wanted or ("any pair",))
        raise RecordError(f"{files.path}: no question of {wish}; the files have {there}")


ROW = Benchmark(
    name="cvqa",
    loader=load,
    scorer=Scorer(
        evaluate, "afaji/cvqa: multiple-choice accuracy over all questions, and by country-language pair"
    ),
    authors=authors_scorer(
        evaluate_as_authors,
        'the box, or what follows the last colon, must be the bare number: "\\boxed{ 2 }", "Respuesta '
        'final: 2" and "\\boxed{2. perro}" are wrong',
    ),
    reader=read_files,
    source="https://huggingface.co/datasets/afaji/cvqa, test (10,374 questions; the paper's five pairs: "
    f"{', '.join(PAPER_PAIRS)})",
    licence="each question its own (in the record); all free for research",
    paper="Romero et al. 2024, arXiv 2406.05967",
    languages=("bg", "es", "pt", "ru", "zh"),
    style="number",
    groups="country-language pair, as Spanish-Spain",
    headline=("overall",),
    splits=("test",),
    hub=HubFiles("afaji/cvqa"),
    files="data/test-*.parquet of https://huggingface.co/datasets/afaji/cvqa",
    fallback_language="en",
)
