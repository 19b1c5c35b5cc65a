"""What is wrong with each of the authors' scorers, said whenever one is used."""

from __future__ import annotations

_CUTS = (
    'its normaliser cuts texts behind "is", "the", "of" and "by" even inside words ("Paris" becomes "", '
    '"Netherlands" becomes "rlands") and its box ends at the first closing brace'
)
_ONE_SIDED = (
    f"only the prediction is normalised, so no accepted answer with a capital or a hyphen matches; {_CUTS}"
)
_MISSING = "missing predictions are left out"

WARNINGS: dict[str, str] = {
    "infoseek": (
        f"{_CUTS}, in predictions and accepted answers alike, so that different answers become equal: always "
        'answering "Paris" scores 3.59 % of the textual questions where 0.21 % is right; times match by '
        f'substring ("19" is 1990); text before the last colon is dropped; {_MISSING}'
    ),
    "oven": (
        "a part without unseen answers counts its seen score twice; scores are rounded before averaging; "
        f"answers are linked through the normaliser: {_CUTS}; {_MISSING} (100 right of 3,291 score 100.0)"
    ),
    "okvqa": (
        f"exact match with any of the ten answers, not VQA accuracy; {_ONE_SIDED}; accepted answers with an "
        f"apostrophe fall apart; {_MISSING}"
    ),
    "aokvqa": (
        "exact match with any direct answer, difficult ones too, not min(count/3, 1); no multiple choice; "
        f"{_ONE_SIDED}; {_MISSING}"
    ),
    "viquae": f"no F1; text before the last colon is dropped; {_ONE_SIDED}; {_MISSING}",
    "mrag_bench": (
        'the first character is the answer ("Based on…" is B, "Answer: C" is A); where it is none of A to D '
        f"the authors asked gpt-4o-mini, here it is wrong; {_MISSING}"
    ),
    "cvqa": (
        'the box, or what follows the last colon, must be the bare number: "\\boxed{ 2 }", "Respuesta final: '
        f'2" and "\\boxed{{2. perro}}" are wrong; {_MISSING}'
    ),
}
