"""Makes golden.json: what lmms-eval's own functions say about made-up answers.

    pip install lmms-eval==0.7.3 Levenshtein pycocoevalcap          # and a Java runtime
    OPENAI_API_KEY=none python tests/benchmarks/lmms/make.py tests/benchmarks/lmms/golden.json

MMMU and MathVista: their tasks' parsing (the official scripts'); where those draw a letter or ask a language
model, null stands. COCO: tokens and scores of the official code, by the task's own aggregation.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from lmms_eval.tasks._task_utils import mmmu_mcq_utils
from lmms_eval.tasks.coco_cap import utils as coco
from lmms_eval.tasks.mathvista.mathvista_evals import MathVistaEvaluator
from lmms_eval.tasks.mmmu import utils as mmmu
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

RNG = random.Random(0)
OPTIONS = [
    ["$6,000", "$6,001", "$60"], ["Paris", "the Seine", "France", "A river"], ["0.5 A", "B", "C major", "d"],
    ["Yes", "No"], ["<image 1>", "<image 2>", "none of these"],
]  # fmt: skip
PARTS = (
    'A|B|C|D|E|(A)|(B)|( C )|A.|B)|C:|**A**|USA|a|I think|the answer is|The answer is "B".|Answer: |Paris|'
    "the seine|$6,000|yes|no|because|0.5 A|of all|none of these|.|,|!|\n|A river runs|"
    "option|is|correct|Thus|C major"
).split("|")
OPEN = (
    "so |is |=|the answer is |Thus |therefore |final |result |could be |. The|\n|12|1,200|3.14159|-7|1e-3|.5|"
    "x = |apples|Apple|a|5 apples|$|%|:|?|.|nothing|infinite|6.0|1200|none|, and"
).split("|")
GOLD = ["12", "1200", "3.14", "apple", "a", "['-7', 'seven']", "0", "6", "x"]
ANSWERS = (
    'A|B|(B)|(c) 5|C.|3|3.0|2.75|2.754|14 cm|Yes|no|The answer is "7".|The answer is 7.|[1, 2]|145°|abc|half|'
    "-3|1e3|nan|inf|  4 |1,000||quarter pas|O'clock"
).split("|")
CAPTIONS = (
    "A man riding a wave on top of a surfboard.|a black-and-white cat is sitting on a man's lap|"
    "Two dogs don't play; "
    'they can\'t!|"Hello", says a U.S. flag at 5:30 p.m.|A 3.5" screen (broken) -- it\'s cheap: $5/10%|'
    "An ice-cream truck, and kids who've come.|He's gonna eat ... cannot stop|"
    "a cafe\u0301 with na\u00efve art & more|"
    "A group of people standing next to each other|Mr. Smith's 2nd car is parked #1|people walk. a dog runs|"
    "the stop sign's been hit? yes|A train at platform no. 9 3/4|it\u2019s a \u201cnice\u201d day|"
    "women and children 1,000 miles away"
).split("|")


def words(parts: list[str], most: int) -> str:
    return " ".join(RNG.choice(parts) for _ in range(RNG.randint(0, most)))


def choices() -> list[dict[str, Any]]:
    mmmu_mcq_utils.random.choice = lambda known: None  # what would be drawn
    rows = []
    for _ in range(500):
        options = RNG.choice(OPTIONS)
        said = words(PARTS, 8)
        by_letter, known = mmmu.get_multi_choice_info(options)
        rows.append([options, said, mmmu.parse_multi_choice_response(said, known, by_letter)])
    return rows


def opens() -> list[Any]:
    rows = []
    for _ in range(500):
        said, gold = "".join(RNG.choice(OPEN) for _ in range(RNG.randint(0, 7))), RNG.choice(GOLD)
        wanted = ["-7", "seven"] if gold.startswith("[") else gold
        rows.append([said, gold, mmmu.eval_open(wanted, mmmu.parse_open_response(said))])
    return rows


def mathvista() -> list[dict[str, Any]]:
    evaluator = MathVistaEvaluator()
    evaluator.get_chat_response = lambda *_, **__: None  # where a language model would be asked
    rows = []
    for said in ANSWERS:
        for kind, answer_type, precision, listed in (
            ("multi_choice", "text", None, ["3", "145°", "half", "quarter past", "o'clock"]),
            ("multi_choice", "text", None, ["Yes", "No"]),
            ("free_form", "integer", None, []), ("free_form", "float", 1, []), ("free_form", "float", 2, []),
            ("free_form", "list", None, []),
        ):  # fmt: skip
            row = {
                "question_type": kind,
                "answer_type": answer_type,
                "precision": precision,
                "choices": listed,
            }
            found = evaluator.extract_answer(said.strip(), {**row, "query": "?"}, quick_extract=True)
            normal = evaluator.normalize_extracted_answer(said, listed, kind, answer_type, precision)
            rows.append({**row, "said": said, "extraction": found, "normalized_as_it_is": normal})
    return rows


def captions() -> dict[str, Any]:
    rows = []
    for number in range(40):
        references = [RNG.choice(CAPTIONS) for _ in range(RNG.randint(1, 5))]
        if RNG.random() < 0.6:
            kept = RNG.choice(references).split()
            said = " ".join(word for word in kept if RNG.random() < 0.8) or "a"
        else:
            said = RNG.choice(CAPTIONS)
        rows.append({"image_id": number + 1, "pred": said, "answer": references, "id": number})
    with tempfile.TemporaryDirectory() as folder:
        args = argparse.Namespace(output_path=folder, model_args="", model="")
        scores = {
            metric: coco.coco_aggregation_result(rows, metric, args)
            for metric in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "CIDEr")
        }
    tokens = PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(CAPTIONS)})
    return {
        "rows": rows, "scores": {name: float(value) for name, value in scores.items()},
        "tokens": [[text, tokens[n][0].split()] for n, text in enumerate(CAPTIONS)],
    }  # fmt: skip


if __name__ == "__main__":
    made = {"mmmu_choice": choices(), "mmmu_open": opens(), "mathvista": mathvista(), "coco": captions()}
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in made.items()]
    Path(sys.argv[1]).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
