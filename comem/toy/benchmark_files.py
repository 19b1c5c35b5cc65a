"""The embedded world's questions in the published format of every benchmark, file by file.

    images/T00001_1.png …                           images, also named by OVEN and ViQuAE
    wit.tsv.gz                                      the knowledge, in six languages
    infoseek/infoseek_val.jsonl, infoseek_val_spanish.jsonl …, infoseek_val_qtype.jsonl
    infoseek/infoseek_test_filtered.csv
    oven/oven_entity_val.jsonl, oven_query_val.jsonl, Wiki6M_ver_1_0_title_only.jsonl
    mrag_bench/data/test-00000-of-00001.parquet     images inside, as in the other parquet files
    okvqa/data/val2014-00000-of-00001.parquet
    aokvqa/data/validation-00000-of-00001.parquet
    viquae/test.jsonl
    cvqa/data/test-00000-of-00001.parquet
    evqa/test.csv
    wikivqabench/data/train-00000-of-00001.parquet
    mmmu/Towns/validation-00000-of-00001.parquet
    mathvista/data/testmini-00000-of-00001.parquet
    coco/captions_val2014.json
    references/                                     what `comem evaluate` takes where that is another file

What is asked is what the embedded models can answer: a town's facts. So the entities of OVEN are the stones,
animals and crafts of the towns; *seen* and *unseen* say whether the town was in the training split.
"""

from __future__ import annotations

import base64
import csv
import io
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from comem.config import option
from comem.io.files import write_atomic, write_json
from comem.toy import lexicon
from comem.toy.dataset import question, write_lines, write_wit
from comem.toy.world import Entity, World, check_numbers


@dataclass(frozen=True)
class FilesSettings:
    """A folder for each benchmark, and images/, references/, wit.tsv.gz.

    Attributes:
        output: the folder of all these; images that are there are kept.
        size: towns of the world; ten of a hundred are never asked about.
        questions: questions of each benchmark (CVQA: of each language).
        seed: the world's seed.
        image_size: edge length in pixels.
    """

    output: Path = option(positional=True, metavar="DIR")
    size: int = 120
    questions: int = 12
    seed: int = 0
    image_size: int = option(112, also=("--picture-size",))

    def __post_init__(self) -> None:
        check_numbers(self, "questions")
        check_numbers(self, "image_size", least=8, most=4096)


@dataclass(frozen=True)
class Asked:
    """One question: a town, one of its facts, and an image that no knowledge item has."""

    town: Entity
    fact: str
    view: int
    wording: int

    @property
    def image_id(self) -> str:
        """The image's name: town and view."""
        return f"{self.town.id}_{self.view}"

    @property
    def seen(self) -> bool:
        """Whether the town is of the training split."""
        return self.town.split == "train"

    def text(self, language: str = "en") -> str:
        """The question."""
        return lexicon.QUESTIONS[language][self.fact][self.wording]

    def answer(self, language: str = "en") -> str:
        """The right answer."""
        return self.town.value(self.fact, language)

    def options(self, language: str, rng: random.Random) -> list[str]:
        """Four values of the fact, the right one among them."""
        others = [value for value in lexicon.VALUES[self.fact][language] if value != self.answer(language)]
        chosen = [self.answer(language), *rng.sample(others, 3)]
        rng.shuffle(chosen)
        return chosen


Row = dict[str, Any]


@dataclass(frozen=True)
class Files:
    """Draws questions, a third of them about towns of the training split, and writes files of them."""

    settings: FilesSettings

    @cached_property
    def world(self) -> World:
        """The world that the questions are about."""
        return World(self.settings.seed, self.settings.size)

    def draw(self, purpose: str, facts: Sequence[str] = tuple(lexicon.FACTS)) -> list[Asked]:
        """So many questions about these facts, each town and fact once, with their images drawn."""
        rng, count = random.Random(f"{purpose}/{self.settings.seed}"), self.settings.questions
        seen = _sample(self.world.split("train"), facts, count // 3, rng)
        chosen = seen + _sample(self.world.split("test"), facts, count - len(seen), rng)
        for each in chosen:
            self.image(each.town, each.view)
        return chosen

    def image(self, town: Entity, view: int) -> None:
        """Draw one view of a town into the images folder, unless it is there."""
        from comem.toy.draw import save_image

        save_image(self.settings.output, town, view, self.settings.image_size)

    def png(self, town: Entity, view: int) -> Row:
        """An image as the `datasets` library embeds it."""
        from comem.toy.draw import png

        return {"bytes": png(town, view, self.settings.image_size), "path": f"{town.id}_{view}.png"}

    def lines(self, name: str, rows: Iterable[Row]) -> None:
        """Write rows as the lines of a JSON Lines file."""
        write_lines(self.settings.output / name, rows)

    def csv(self, name: str, rows: Sequence[Row]) -> None:
        """Write rows as a CSV file with a header."""
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.settings.output / name, buffer.getvalue())

    def parquet(
        self, folder: str, split: str, rows: Sequence[Row], inside: str = "data", image: str = "image"
    ) -> None:
        """One shard in the form in which the `datasets` library writes the hub's.

        Args:
            folder: of the benchmark.
            split: the shard's name.
            rows: with the picture, if it is no text, as `image`.
            inside: the folder of the shard.
            image: what the picture's column is called.
        """
        import pyarrow.parquet
        from datasets import Features

        features = Features({name: _feature(name, value) for name, value in rows[0].items()})
        # Not Dataset.to_parquet: it draws a progress bar for every file.
        table = pyarrow.Table.from_pylist(list(rows), schema=features.arrow_schema)
        if image != "image":
            table = table.rename_columns([image if name == "image" else name for name in table.column_names])
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        path = self.settings.output / folder / inside / f"{split}-00000-of-00001.parquet"
        write_atomic(path, buffer.getvalue())


def _feature(name: str, value: Any) -> Any:
    from datasets import Image, List, Value

    if name == "image" and not isinstance(value, str):
        return Image()
    if isinstance(value, list):
        return List(Image() if isinstance(value[0], dict) else Value("string"))
    return Value("bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "string")


def _sample(towns: Sequence[Entity], facts: Sequence[str], count: int, rng: random.Random) -> list[Asked]:
    pairs = [(town, fact) for town in towns for fact in facts]
    if count > len(pairs):
        raise ValueError(f"{count} questions about {len(towns)} towns: make the world larger (size)")
    return [Asked(*pair, 1 + n % 3, rng.randrange(2)) for n, pair in enumerate(rng.sample(pairs, count))]


_SUFFIXES = {"bg": "_bulgarian", "zh": "_chinese", "pt": "_portuguese", "ru": "_russian", "es": "_spanish"}
#: The benchmarks' rows that read the files, and the folder of each.
FOLDERS = {"infoseek": "infoseek", **{f"infoseek_{language}": "infoseek" for language in _SUFFIXES}}
FOLDERS |= {"infoseek_filtered": "infoseek", "oven_entity": "oven", "oven_query": "oven"}
FOLDERS |= {
    name: name for name in "mrag_bench okvqa aokvqa viquae cvqa evqa wikivqabench mmmu mathvista".split()
}
FOLDERS |= {"coco_caption": "coco"}
#: Facts whose value is a word, with others to choose from.
WORDS = tuple(lexicon.VALUES)
SCENARIOS = (
    "Angle", "Partial", "Scope", "Occlusion", "Temporal", "Deformation", "Incomplete", "Biological", "Others",
)  # fmt: skip
#: The paper's five country-language pairs, by language.
PAIRS = {
    "zh": ("Chinese", "China"), "es": ("Spanish", "Spain"), "ru": ("Russian", "Russia"),
    "bg": ("Bulgarian", "Bulgaria"), "pt": ("Portuguese", "Brazil"),
}  # fmt: skip


def build_files(settings: FilesSettings) -> dict[str, int]:
    """Write all files; the same settings give the same questions.

    Returns:
        Questions by the name of the benchmark's row.
    """
    output, files = settings.output, Files(settings)
    write_wit(output / "wit.tsv.gz", files.world.entities, lexicon.LANGUAGES, settings.image_size)
    for town in files.world.entities:
        files.image(town, 0)
    counts: dict[str, int] = {}
    writers = (_infoseek, _oven, _mrag_bench, _okvqa, _aokvqa, _viquae, _cvqa, _evqa, _wikivqabench, _mmmu)
    for write in (*writers, _mathvista, _coco):
        counts |= write(files)
    about = asdict(settings)
    del about["output"]
    write_json(output / "benchmarks.json", {"settings": about, "questions": counts})
    return counts


def _infoseek(files: Files) -> dict[str, int]:
    """One set of questions in six languages, under the same ids, as the paper's translations are."""
    chosen, counts = files.draw("infoseek"), {}
    published = ("image_id", "question", "answer", "answer_eval", "data_split")
    for language in lexicon.LANGUAGES:
        rows = []
        for number, each in enumerate(chosen):
            split = "val_unseen_question" if each.seen else "val_unseen_entity"
            row = question(each.town, each.fact, each.view, split, language, each.wording)
            rows.append({"data_id": f"infoseek_val_{number:08d}", **{key: row[key] for key in published}})
        suffix = _SUFFIXES.get(language, "")
        files.lines(f"infoseek/infoseek_val{suffix}.jsonl", rows)
        counts["infoseek" + (f"_{language}" if suffix else "")] = len(rows)
    types = [
        {"data_id": f"infoseek_val_{number:08d}", "question_type": lexicon.FACTS[each.fact]}
        for number, each in enumerate(chosen)
    ]
    files.lines("infoseek/infoseek_val_qtype.jsonl", types)
    asked = [
        {
            "question": each.text(),
            "answer": each.answer(),
            "dataset_image_ids": each.image_id,
            "dataset_name": "infoseek",
            "question_type": "infoseek",
            "wikipedia_url": f"https://toy.invalid/{each.town.id}",
            "data_id": f"infoseek_val_{number:08d}",
        }
        for number, each in enumerate(chosen)
    ]
    files.csv("infoseek/infoseek_test_filtered.csv", asked)
    return counts | {"infoseek_filtered": len(asked)}


def entity_id(fact: str, index: int) -> str:
    """The made-up Wikidata id of a value."""
    return f"Q{1000 * (1 + WORDS.index(fact)) + index}"


def _oven(files: Files) -> dict[str, int]:
    """Two sets: what is asked by a template (entity), and by people (query)."""
    counts = {}
    for part, facts in {"entity": ("stone", "craft"), "query": ("animal",)}.items():
        rows = [
            {
                "data_id": f"oven_{part}_val_{number:08d}",
                "image_id": each.image_id,
                "question": each.text(),
                "entity_id": entity_id(each.fact, each.town.facts[each.fact]),
                "entity_text": each.answer().capitalize(),
                "data_split": f"{part}_val_{'seen' if each.seen else 'unseen'}",
            }
            for number, each in enumerate(files.draw(f"oven/{part}", facts))
        ]
        files.lines(f"oven/oven_{part}_val.jsonl", rows)
        counts[f"oven_{part}"] = len(rows)
    titles = [
        {"wikidata_id": entity_id(fact, index), "wikipedia_title": value.capitalize()}
        for fact in WORDS
        for index, value in enumerate(lexicon.VALUES[fact]["en"])
    ]
    titles += [
        {"wikidata_id": f"Q{10**6 + town.index}", "wikipedia_title": town.name}
        for town in files.world.entities
    ]
    files.lines("oven/Wiki6M_ver_1_0_title_only.jsonl", titles)
    return counts


def _mrag_bench(files: Files) -> dict[str, int]:
    rng = random.Random("mrag_bench")
    rows, references = [], []
    for number, each in enumerate(files.draw("mrag_bench", WORDS)):
        choices = dict(zip("ABCD", each.options("en", rng), strict=True))
        letter = next(key for key, value in choices.items() if value == each.answer())
        facts = {"id": str(number), "aspect": "perspective", "scenario": SCENARIOS[number % len(SCENARIOS)]}
        other = [files.png(each.town, 0)]
        image = {"image": files.png(each.town, each.view), "gt_images": other, "question": each.text()}
        answer = {"answer_choice": letter, "answer": each.answer(), "image_type": "png"}
        source = {"source": "comem toy", "retrieved_images": other}
        rows.append({**facts, **image, **choices, **answer, **source})
        references.append({**facts, "choices": choices, "gt_choice": letter})
    files.lines("references/mrag_bench.jsonl", references)
    files.parquet("mrag_bench", "test", rows)
    return {"mrag_bench": len(rows)}


def _humans(each: Asked, rng: random.Random) -> list[str]:
    """Ten human answers, of which two are mistaken."""
    values = lexicon.VALUES.get(each.fact, {}).get("en") or [str(rng.randrange(1000, 2000)) for _ in range(9)]
    wrong = [value for value in rng.sample(values, 3) if value != each.answer()][:2]
    return [each.answer()] * (10 - len(wrong)) + wrong


def _okvqa(files: Files) -> dict[str, int]:
    rng = random.Random("okvqa")
    rows, annotations = [], []
    for number, each in enumerate(files.draw("okvqa")):
        name, answers = str(10 * number + 5), _humans(each, rng)
        kinds = {"question_type": lexicon.FACTS[each.fact], "answer_type": "other"}
        image = {"image": files.png(each.town, each.view)}
        rows.append({"question_id": name, **image, "question": each.text(), "answers": answers, **kinds})
        listed = [
            {"answer_id": n, "answer": text, "raw_answer": text} for n, text in enumerate(answers, start=1)
        ]
        annotations.append({"question_id": int(name), "image_id": number, "answers": listed, **kinds})
    write_json(files.settings.output / "references" / "okvqa.json", {"annotations": annotations})
    files.parquet("okvqa", "val2014", rows)
    return {"okvqa": len(rows)}


def _aokvqa(files: Files) -> dict[str, int]:
    rng = random.Random("aokvqa")
    rows, references = [], []
    for number, each in enumerate(files.draw("aokvqa", WORDS)):
        choices, answers = each.options("en", rng), _humans(each, rng)
        row = {
            "question_id": f"toy{number:019d}",
            "question": each.text(),
            "choices": choices,
            "correct_choice_idx": choices.index(each.answer()),
            "direct_answers": answers,
            "difficult_direct_answer": number % 8 == 7,
            "rationales": [f"The passage about {each.town.name} says so."],
        }
        references.append(row)
        rows.append({"image": files.png(each.town, each.view), **row, "direct_answers": str(answers)})
    write_json(files.settings.output / "references" / "aokvqa.json", references)
    files.parquet("aokvqa", "validation", rows)
    return {"aokvqa": len(rows)}


def _viquae(files: Files) -> dict[str, int]:
    rows = [
        {
            "id": f"toy_{number}",
            "input": each.text(),
            "image": f"{each.image_id}.png",
            "url": f"toy/{each.image_id}.png",
            "kilt_id": f"toy_{number}",
            "wikidata_id": each.town.id,
            "original_question": each.text().replace("this town", each.town.name),
            "meta": {},
            "output": {"answer": sorted({each.answer(), each.answer().capitalize()}),
                       "original_answer": each.answer()},
        }
        for number, each in enumerate(files.draw("viquae"))
    ]  # fmt: skip
    files.lines("viquae/test.jsonl", rows)
    return {"viquae": len(rows)}


def _cvqa(files: Files) -> dict[str, int]:
    rng = random.Random("cvqa")
    rows = []
    for language, pair in PAIRS.items():
        for number, each in enumerate(files.draw(f"cvqa/{language}", WORDS)):
            state = rng.getstate()
            options = each.options(language, rng)
            rng.setstate(state)
            rows.append(
                {
                    "image": files.png(each.town, each.view),
                    "ID": f"toy{language}{number:06d}_0",
                    "Subset": str(pair),
                    "Question": each.text(language),
                    "Translated Question": each.text(),
                    "Options": options,
                    "Translated Options": each.options("en", rng),
                    "Label": options.index(each.answer(language)),
                    "Category": "Objects / materials / clothing",
                    "Image Type": "Self",
                    "Image Source": "Self-open",
                    "License": "Apache-2.0",
                }
            )
    references = ({key: value for key, value in row.items() if key != "image"} for row in rows)
    files.lines("references/cvqa.jsonl", references)
    files.parquet("cvqa", "test", rows)
    return {"cvqa": len(rows)}


def _evqa(files: Files) -> dict[str, int]:
    rows = [
        {
            "question": each.text(),
            "answer": "|".join(dict.fromkeys((each.answer(), each.answer().capitalize()))),
            "dataset_image_ids": each.image_id,
            "dataset_name": "landmarks",
            "dataset_category_id": each.town.index,
            "question_type": "templated",
            "wikipedia_url": f"https://toy.invalid/{each.town.id}",
            "wikipedia_title": each.town.name,
            "evidence": f"The passage about {each.town.name} says so.",
            "evidence_section_id": 0,
            "evidence_section_title": each.town.name,
            "encyclopedic_vqa_split": "test",
            "question_original": each.text(),
            "wikipedia_url_used_in_train": each.seen,
        }
        for each in files.draw("evqa")
    ]
    files.csv("evqa/test.csv", rows)
    return {"evqa": len(rows)}


def _wikivqabench(files: Files) -> dict[str, int]:
    rng, rows = random.Random("wikivqabench"), []
    for each in files.draw("wikivqabench", WORDS):
        others = [option for option in each.options("en", rng) if option != each.answer()]
        picture = base64.b64encode(files.png(each.town, each.view)["bytes"]).decode()
        rows.append({"image": picture, "question": each.text(), "correct": each.answer(), "wrongs": others})
    files.parquet("wikivqabench", "train", rows)
    return {"wikivqabench": len(rows)}


def _mmmu(files: Files) -> dict[str, int]:
    """By choice what is a word, openly the years."""
    rng, rows, answers = random.Random("mmmu"), [], {}
    for number, each in enumerate(files.draw("mmmu", (*WORDS, "founded")), start=1):
        options = each.options("en", rng) if each.fact in WORDS else []
        name, kind = f"validation_Towns_{number}", "multiple-choice" if options else "open"
        answer = "ABCD"[options.index(each.answer())] if options else each.answer()
        answers[name] = {"question_type": kind, "ground_truth": answer}
        row = {"id": name, "question": each.text(), "options": str(options), "explanation": ""}
        rows.append(
            {**row, "image": files.png(each.town, each.view), "answer": answer, "question_type": kind}
        )
    write_json(files.settings.output / "references" / "answer_dict_val.json", answers)
    files.parquet("mmmu/Towns", "validation", rows, inside="", image="image_1")
    return {"mmmu": len(rows)}


def _mathvista(files: Files) -> dict[str, int]:
    rng, rows = random.Random("mathvista"), []
    for number, each in enumerate(files.draw("mathvista", (*WORDS, "founded")), start=1):
        choices = each.options("en", rng) if each.fact in WORDS else []
        kind, form = ("multi_choice", "text") if choices else ("free_form", "integer")
        row = {"pid": str(number), "question": each.text(), "query": each.text(), "choices": choices or [""]}
        rows.append(
            {
                **row, "image": files.png(each.town, each.view), "unit": "", "precision": 0,
                "answer": each.answer(), "question_type": kind, "answer_type": form,
            }
        )  # fmt: skip
    files.parquet("mathvista", "testmini", rows, image="decoded_image")
    return {"mathvista": len(rows)}


def _coco(files: Files) -> dict[str, int]:
    """Captions of the towns' flags, two each."""
    images: list[Row] = []
    annotations: list[Row] = []
    for number, each in enumerate(files.draw("coco")):
        images.append({"id": number, "file_name": f"{each.image_id}.png"})
        texts = (
            f"The flag of {each.town.name} on a card.",
            f"A card with the flag of the town {each.town.name}.",
        )
        for text in texts:
            annotations.append({"id": len(annotations), "image_id": number, "caption": text})
    write_json(
        files.settings.output / "coco" / "captions_val2014.json",
        {"images": images, "annotations": annotations},
    )
    return {"coco_caption": len(images)}
