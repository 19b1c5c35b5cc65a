r"""How questions are asked: templates by style and language, without and with knowledge. Data only.

The styles follow the paper's prompts (authors_code.md, section 4): step-by-step reasoning, then
`Final answer: \boxed{…}`; with knowledge the model is told to use the given information.

| style | of | required answer |
|---|---|---|
| paper | InfoSeek, in six languages | a short answer in a box |
| concise | OK-VQA, A-OKVQA, ViQuAE; the same words in all modes | the same, told once more to be short; of \
options, one |
| entity | OVEN; the same words in all modes | the name of an entity in a box |
| letter | MRAG-Bench | an option's letter: directly; with knowledge after reasoning |
| exam | MMMU; its own words in all modes | an option's letter; of open questions a word or phrase |
| number | CVQA, in six languages; the same words in all modes | the number of an option in a box |
| short | any | the question and its options, nothing else |
| bare | any | the question alone, also where there are options: for models that answer in a few words, such \
as the embedded one |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from comem.registry import Registry


@dataclass(frozen=True)
class Choices:
    """How options are listed after the question.

    Args:
        option: one of them; `{text}`, `{letter}` (A, B, …) and `{number}` (1, 2, …) are replaced.
        separator: between two.
        lead: before the first; starts on a line of its own.
    """

    option: str = "{text}"
    separator: str = ", "
    lead: str = ""

    def list(self, choices: Sequence[str]) -> str:
        """All options in one text."""
        shown = []
        for index, text in enumerate(choices):
            label = self.option.replace("{letter}", chr(ord("A") + index)).replace("{number}", str(index + 1))
            shown.append(label.replace("{text}", text.strip(), 1))
        return self.lead + self.separator.join(shown)


@dataclass(frozen=True)
class Prompt:
    """A template for questions without knowledge and one with it; `{question}` is replaced.

    `choices` says how options are listed after the question; None leaves them out. `free` is for questions
    without options, where these are asked in other words.
    """

    plain: str
    grounded: str
    choices: Choices | None = Choices(lead="Choose one of the following: ")
    free: str = ""

    def fill(self, question: str, grounded: bool, choices: Sequence[str] = ()) -> str:
        """The text of the question turn."""
        asked = question.strip()
        if choices and self.choices is not None:
            asked = f"{asked}\n{self.choices.list(choices)}"
        template = self.grounded if grounded else self.plain
        return (template if choices or not self.free else self.free).replace("{question}", asked, 1)


#: By language, the parts of the paper's prompts: `prompts.yaml`.
_WORDS: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("prompts.yaml").read_text(encoding="utf-8")
)


def _paper(words: Mapping[str, str], plain: str, grounded: str) -> Prompt:
    """The parts in the paper's order: question, instruction, required form of the answer."""
    end = f"{words['form']}\n{words['final']}"
    return Prompt(f"{words['question']}\n{plain} {end}", f"{words['question']}\n{grounded} {end}")


def _always(text: str, choices: Choices | None = Prompt.choices) -> Prompt:
    """The same words in all modes."""
    return Prompt(text, text, choices)


PAPER = {language: _paper(words, words["plain"], words["grounded"]) for language, words in _WORDS.items()}
CONCISE = {
    language: _always(f"{PAPER[language].plain}\n{words['short']}") for language, words in _WORDS.items()
}
_ENTITY = (
    "Question: {question}\n"
    "Please refer to the given information and then perform step-by-step reasoning to answer the question "
    "about the image. Answer in this format:\nReasoning Process: your thinking steps here\n"
    r"Final answer: \boxed{your short answer here}"
)
_LETTER = Prompt(
    "Answer according to the image with the option's letter from the given choices directly.\n{question}",
    "Please refer to the given information and perform step-by-step reasoning to answer the question "
    "about the image. Your final answer should only be the option's letter.\n{question}\n"
    "Answer in this format:\nReasoning Process: all thinking steps\n"
    r"Final answer: \boxed{the option's letter}",
    Choices("{letter}: {text}", "\n", "Choices:\n"),
)
_EXAM = "{question}\nAnswer with the option's letter from the given choices directly."
#: The paper's prompt, with an option's number in the box.
NUMBER = {
    language: _always(
        PAPER[language].plain.rpartition(r"\boxed{")[0] + f"\\boxed{{{words['number']}}}",
        Choices("{number}. {text}", " "),
    )
    for language, words in _WORDS.items()
}

PROMPTS: Registry[Mapping[str, Prompt]] = Registry(
    "prompt style",
    {
        "paper": PAPER,
        "concise": CONCISE,
        "entity": {"en": _always(_ENTITY)},
        "letter": {"en": _LETTER},
        "exam": {
            "en": Prompt(
                _EXAM,
                _EXAM,
                Choices("({letter}) {text}", "\n"),
                free="{question}\nAnswer the question using a single word or phrase.",
            )
        },
        "number": NUMBER,
        "short": dict.fromkeys(PAPER, _always("{question}", Choices("- {text}", "\n"))),
        "bare": dict.fromkeys(PAPER, _always("{question}", None)),
    },
)
LANGUAGES = tuple(PAPER)


def ask(
    question: str, language: str, grounded: bool, style: str = "paper", choices: Sequence[str] = ()
) -> str:
    """The text of the question turn.

    Args:
        question: the bare question.
        language: its language code (a row of the style).
        grounded: whether knowledge is given along with it.
        style: a row of `PROMPTS`.
        choices: the options, of a multiple-choice question.

    Raises:
        UnknownNameError: no such style, or no prompt in this language.
    """
    return Registry("prompt language", PROMPTS[style])[language].fill(question, grounded, choices)
