"""Five benchmarks of multiple-choice questions about videos, and how a letter is found in free text.

| row | hub, split | a record |
|---|---|---|
| longvideobench | longvideobench/LongVideoBench, validation | id, video_path, question, option0 … \
option4 ("N/A": none), correct_choice, duration_group |
| videomme | lmms-lab/Video-MME, test | question_id, videoID, question, options, answer, duration |
| mlvu | sy1998/MLVU_dev, test | video_name, question (options inside), answer, task_type |
| nextqa | lmms-lab/NExTQA, MC, test | video, qid, question, a0 … a4, answer (0 to 4), type |
| egoschema | lmms-lab/egoschema, Subset (labels are public), test | question_idx, video_idx, question, \
option, answer (0 to 4) |

Read from parquet, JSON, JSON lines or CSV of these fields, or from lmms-eval's logs of samples. What a number
means depends on how letters are found, and lmms-eval has changed that: `2025` are each benchmark's rules of
mid-2025 (video_memory.md 3), `shared` is the one parser with priorities that it uses since for videomme and
mlvu; `official` is what lmms-eval 0.7.3 does. Answers without a letter are wrong, and counted apart; the
originals draw a letter for them, as `drawn` does (seed 0).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer
from comem.benchmarks.files import DataFiles, find_parquet, read_parquet
from comem.benchmarks.scoring import (
    Answers,
    Row,
    Rows,
    ScoreFiles,
    checked_text,
    match,
    mean_report,
    means_by,
    read_predictions,
    read_rows,
)
from comem.io.files import RecordError, read_csv
from comem.registry import Registry
from comem.types import Example, Report, VideoRef

#: Of an answer, the letters that may be given, and the options' texts: the letter, or "".
Rule = Callable[[str, str, Sequence[str]], str]

_PREFIXES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
    "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip
_MARKS = ",.!?;:'"


def _stripped(text: str, marks: str) -> str:
    """Without these marks at its ends, taken off one after the other, once each; between spaces."""
    for mark in marks:
        text = text.strip(mark)
    return f" {text} "


def first_letter(answer: str, letters: str, options: Sequence[str] = ()) -> str:
    """After phrases like "The answer is" are gone, the first capital that is an option's letter."""
    text = answer.strip()
    for prefix in _PREFIXES:
        text = text.replace(prefix, "")
    found = re.search(f"[{letters}]", text)
    return found[0] if found else ""


def before_bracket(answer: str, letters: str, options: Sequence[str] = ()) -> str:
    """The character in front of the first ")", else the whole answer where it is one letter (MLVU)."""
    text = answer.strip()
    at = text.find(")")
    text = text[at - 1] if at > 0 else text
    return text if len(text) == 1 and text in letters else ""


def _named(text: str, letters: str, options: Sequence[str]) -> dict[str, int]:
    """Where the options' texts stand last in an answer of more than five words."""
    if len(text.split()) <= 5:
        return {}
    pairs = zip(letters, options, strict=False)
    return {x: at for x, option in pairs if (at := text.lower().rfind(option.lower())) >= 0 and option}


def last_of_forms(answer: str, letters: str, options: Sequence[str] = ()) -> str:
    """Of the first form found of "(A)", "A ", "A.", then an option's text, the last letter (NExT-QA).

    As published, letters without brackets are looked for as " A ": where none stands so, the first counts.
    """
    text = _stripped(answer, _MARKS)
    for form in ("({})", "{} ", "{}."):
        if found := [letter for letter in letters if form.format(letter) in text]:
            place = "({})" if form == "({})" else " {} "
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    named = _named(text, letters, options)
    return max(named, key=lambda letter: named[letter]) if named else ""


def first_of_forms(answer: str, letters: str, options: Sequence[str] = ()) -> str:
    """Of all of "(A)", "A ", "A.", else of the options' texts, the one that ends first (EgoSchema)."""
    text = _stripped(answer, _MARKS)
    found = [
        (text.rfind(said), number, letter)
        for number, form in enumerate(("({})", "{} ", "{}."))
        for letter in letters
        if (said := form.format(letter)) in text
    ]
    if found:
        return min(found)[2]
    named = _named(text, letters, options)
    return min(named, key=lambda letter: named[letter]) if named else ""


_SAID = (
    *(
        f"{the}{kind} {what} is"
        for the in ("the ", "")
        for kind in ("correct", "best")
        for what in ("answer", "option")
    ),
    *(
        "the answer is",
        "answer is",
        "the choice is",
        "choice is",
        "the correct choice is",
        "correct choice is",
    ),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))


def by_priority(answer: str, letters: str, options: Sequence[str] = ()) -> str:
    """The surest form wins: at the start, the end, after "answer is", then "(A)", "A.", "A:", "A)", "A ".

    Of several letters in one form the last; without any form, the last capital that is a letter.
    """
    text = _stripped(answer.strip(), _MARKS + '"')
    bare, lower = text.strip(), text.lower()
    found: list[tuple[int, int, str]] = []
    for letter in letters:
        found += [(rank, at, letter) for form, rank in _FORMS if (at := text.rfind(form.format(letter))) >= 0]
        for said in _SAID:
            begin = lower.find(said)
            if begin >= 0 and (at := text.find(letter, begin + len(said))) >= 0:
                found.append((7, at, letter))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((9, len(text) - 1, letter))
    found = found or [(0, at, letter) for letter in letters if (at := text.rfind(letter)) >= 0]
    return max(found, key=lambda each: each[:2])[2] if found else ""


RULES: Registry[Rule] = Registry(
    "rule for letters",
    {
        "first_letter": first_letter, "before_bracket": before_bracket, "last_of_forms": last_of_forms,
        "first_of_forms": first_of_forms, "by_priority": by_priority,
    },
)  # fmt: skip


def evaluate(
    answers: Answers, rows: Rows, benchmark: str, rule: str, letters: str, of_groups: bool = False,
    drawn: bool = False,
) -> Report:  # fmt: skip
    """Accuracy in percent, and the answers in which no letter was found.

    Args:
        answers: what was said, whole, by id.
        rows: by id; `right` is the letter, `given` the options' texts, `group` the kind of question.
        benchmark: its name.
        rule: a row of `RULES`.
        letters: that may be given.
        of_groups: the mean of the groups' accuracies instead (MLVU).
        drawn: where no letter is found, one is drawn (seed 0).
    """
    rng, values, unparsed = random.Random(0), dict[str, float](), 0
    for name in match(answers, rows):
        row = rows[name]
        if not row["right"]:
            raise RecordError(f"{benchmark}: {name!r} has no answer; are these the questions without labels?")
        letter = RULES[rule](answers[name], letters, row["given"])
        unparsed += not letter
        if not letter and drawn:
            letter = rng.choice(letters[: len(row["given"]) or None])
        values[name] = float(letter == row["right"])

    def group(name: str) -> str:
        return str(rows[name]["group"])

    parts = means_by(values, group)
    more: dict[str, Any] = {"unparsed": unparsed, "rule": rule}
    if of_groups:
        more = {"mean_of_tasks": sum(parts.values()) / len(parts), **more}
    return mean_report(benchmark, "accuracy", values, rows, group, **more)


@dataclass(frozen=True)
class Form:
    """How a benchmark's records are read; each field is of a record.

    Attributes:
        name: of the id, where records have one.
        video: of the file's name, and where it may lie: `{}` is replaced.
        places: as above.
        options: the options' texts.
        right: the right letter, "" where it is not public.
        prompt: the question as lmms-eval's task puts it.
        group: of the kind of question.
        columns: of a parquet file.
        optional: likewise, where they are there.
    """

    name: str
    video: str
    places: tuple[str, ...]
    options: Callable[[Row], list[str]]
    right: Callable[[Row], str]
    prompt: Callable[[Row, list[str]], str]
    group: str
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def id_of(self, row: Row, number: int) -> str:
        """Of a record, by its own id or its place, from 0."""
        own = row.get(self.name)
        if self.name == "qid" and own is not None:  # counted anew for each video
            return f"{row['video']}_{own}"
        return str(number if own is None else own)

    def example(self, row: Row, number: int, videos: Path | None, source: Path) -> Example:
        """A record as a question.

        Raises:
            RecordError: a field is missing, or of another kind; names record and field.
        """
        name = self.id_of(row, number)
        try:
            options, right = self.options(row), self.right(row)
            prompt, file = self.prompt(row, options), str(row[self.video])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            told = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise RecordError(f"{source}: record {number + 1}: {told}") from error
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise RecordError(f"{source}: record {number + 1}: {file!r} lies outside the folder of videos")
        tried = [videos / place.format(file) for place in self.places] if videos is not None else []
        video = next((path for path in tried if path.is_file()), tried[0] if tried else None)
        kind = str(row.get(self.group, ""))
        return Example(
            id=name, question=prompt, image=None, answers=(right,) if right else (), group=kind,
            meta={**row, "right": right, "given": options, "group": kind},
            video=None if video is None else VideoRef(str(video)),
        )  # fmt: skip


def _letter(value: Any) -> str:
    """Of an option's number, from 0; "" for none."""
    text = "" if value is None else str(value).strip()
    return "ABCDE"[int(text)] if text.isdigit() else ""


def _listed(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDE", options, strict=False))


_LETTER = "Answer with the option's letter from the given choices directly."
_MME = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
FORMS = {
    "longvideobench": Form(
        "id", "video_path", ("{}", "videos/{}"),
        lambda row: [row[f"option{n}"] for n in range(5) if row.get(f"option{n}") not in (None, "N/A")],
        lambda row: _letter(row["correct_choice"]),
        lambda row, options: f"{row['question']}\n{_listed(options)}\n{_LETTER}\n",
        "duration_group", ("id", "video_path", "question", "option0", "option1", "correct_choice"),
        ("option2", "option3", "option4", "duration_group", "question_category"),
    ),
    "videomme": Form(
        "question_id", "videoID", ("{}.mp4", "data/{}.mp4", "{}.MP4", "{}.mkv"),
        lambda row: list(row["options"]), lambda row: str(row["answer"]),
        lambda row, options: "\n".join((_MME, row["question"], *options, f"\n{_LETTER}")),
        "duration", ("question_id", "videoID", "question", "options", "answer"),
        ("duration", "domain", "sub_category", "task_type"),
    ),
    "mlvu": Form(
        "question_id", "video_name", ("{}",), lambda row: [str(each) for each in row.get("candidates") or ()],
        lambda row: str(row["answer"]),
        lambda row, options: f"{row['question']}\nOnly give the best option.\nBest option: (",
        "task_type", ("video_name", "question", "answer", "task_type"), ("question_id", "candidates"),
    ),
    "nextqa": Form(
        "qid", "video", ("{}.mp4", "NExTVideo/{}.mp4"),
        lambda row: [str(row[f"a{n}"]).strip() for n in range(5)], lambda row: _letter(row["answer"]),
        lambda row, options: f"{row['question'].strip()}\n{_listed(options)}",
        "type", ("video", "question", "a0", "a1", "a2", "a3", "a4", "answer"), ("qid", "type"),
    ),
    "egoschema": Form(
        "question_idx", "video_idx", ("{}.mp4", "videos/{}.mp4", "{}.MP4"),
        lambda row: [option.strip() for option in row["option"]], lambda row: _letter(row["answer"]),
        lambda row, options: "\n".join((row["question"], *row["option"], _LETTER)),
        "", ("question_idx", "video_idx", "question", "option", "answer"),
    ),
}  # fmt: skip


def _records(path: Path, form: Form, split: str) -> Iterator[dict[str, Any]]:
    """The records of a file or folder, or of a log of lmms-eval."""
    if path.is_dir() or path.suffix == ".parquet":
        yield from read_parquet(find_parquet(path, split), form.columns, form.optional)
    elif path.suffix == ".csv":
        yield from read_csv(path, form.columns)
    else:
        yield from read_rows(path)


def load(files: DataFiles, form: Form, split: str) -> Iterator[Example]:
    """Examples; `images` is the folder of the videos."""
    seen: set[str] = set()
    for number, row in enumerate(_records(files.path, form, files.split or split)):
        example = form.example(row, number, files.images, files.path)
        if example.id in seen:
            raise RecordError(f"{files.path}: record {number + 1}: the id {example.id!r} again")
        seen.add(example.id)
        yield example
    if not seen:
        raise RecordError(f"{files.path}: holds no questions; fetch it again")


def read(files: ScoreFiles, form: Form, split: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Whole answers and records by id; a log of lmms-eval carries the records itself.

    Raises:
        RecordError: a damaged file; ValueError: no records are given and the answers are no log.
    """
    path = files.path("predictions")
    log = [row for row in read_rows(path) if "doc_id" in row]
    if not log:
        said = read_predictions(path, whole=True)
        source = files.path("references")
    else:
        said = {
            form.id_of(row, int(row["doc_id"])): checked_text(row["prediction"], str(row["doc_id"]), path)
            for row in log
        }
        source = files.references.get("", path)
    rows: Iterable[tuple[int, Row]] = enumerate(_records(source, form, files.split or split))
    if source == path:
        rows = ((int(row["doc_id"]), row) for row in log)
    examples = [form.example(row, number, None, source) for number, row in rows]
    return said, {example.id: example.meta for example in examples}


def _whole(text: str, row: Row) -> str:
    return text


def _row(
    name: str,
    own: str,
    letters: str,
    today: str,
    facts: Mapping[str, Any],
    split: str = "test",
    of_groups: bool = False,
) -> Benchmark:
    form = FORMS[name]
    known = partial(evaluate, letters=letters, of_groups=of_groups)

    def scorer(rule: str, told: str, drawn: bool = False) -> Scorer:
        return Scorer(partial(known, rule=rule, drawn=drawn), f"{told}: the rule {rule}", whole=True)

    return Benchmark(
        name=name,
        loader=partial(load, form=form, split=split),
        scorer=scorer(today, "as lmms-eval 0.7.3, but answers without a letter are wrong"),
        others={
            "2025": scorer(own, "as lmms-eval in mid-2025, but answers without a letter are wrong"),
            "shared": scorer("by_priority", "lmms-eval's shared parser"),
            "drawn": scorer(today, "as lmms-eval 0.7.3, a letter drawn if none is found (seed 0)", True),
        },
        reader=partial(read, form=form, split=split),
        short=_whole,
        style="bare",
        groups=form.group or "none",
        headline=("mean_of_tasks", "accuracy", "unparsed") if of_groups else ("accuracy", "unparsed"),
        splits=(split,),
        needs_images=False,
        **facts,
    )  # fmt: skip


def _facts(hub: str, licence: str, paper: str, more: str = "") -> dict[str, str]:
    address = f"https://huggingface.co/datasets/{hub}"
    return {
        "source": f"{address}{more}", "licence": licence, "paper": paper,
        "files": f"the parquet files of {address}", "images": "the videos, unpacked into one folder",
    }  # fmt: skip


LONGVIDEOBENCH = _row(
    "longvideobench", "first_letter", "ABCDE", "first_letter",
    _facts("longvideobench/LongVideoBench", "CC BY-NC-SA 4.0", "Wu et al. 2024, arXiv 2407.15754"),
    "validation",
)  # fmt: skip
VIDEOMME = _row(
    "videomme", "first_letter", "ABCD", "by_priority",
    _facts("lmms-lab/Video-MME", "research only (its page)", "Fu et al. 2024, arXiv 2405.21075"),
)  # fmt: skip
MLVU = _row(
    "mlvu", "before_bracket", "ABCD", "by_priority",
    _facts("sy1998/MLVU_dev", "CC BY-NC-SA 4.0", "Zhou et al. 2024, arXiv 2406.04264"), of_groups=True,
)  # fmt: skip
NEXTQA = _row(
    "nextqa", "last_of_forms", "ABCDE", "last_of_forms",
    _facts("lmms-lab/NExTQA", "MIT (annotations)", "Xiao et al. 2021, arXiv 2105.08276", ", MC"),
)  # fmt: skip
EGOSCHEMA = _row(
    "egoschema", "first_of_forms", "ABCDE", "first_of_forms",
    _facts("lmms-lab/egoschema", "Ego4D's", "Mangalam et al. 2023, arXiv 2308.09126", ", Subset"),
)  # fmt: skip
