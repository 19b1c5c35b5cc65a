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
| number | CVQA, in six languages; the same words in all modes | the number of an option in a box |
| short | any | the question and its options, nothing else |
| bare | any | the question alone, also where there are options: for models that answer in a few words, such \
as the embedded one |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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

    `choices` says how options are listed after the question; None leaves them out.
    """

    plain: str
    grounded: str
    choices: Choices | None = Choices(lead="Choose one of the following: ")

    def fill(self, question: str, grounded: bool, choices: Sequence[str] = ()) -> str:
        """The text of the question turn."""
        asked = question.strip()
        if choices and self.choices is not None:
            asked = f"{asked}\n{self.choices.list(choices)}"
        return (self.grounded if grounded else self.plain).replace("{question}", asked, 1)


def _paper(question: str, plain: str, grounded: str, form: str, final: str) -> Prompt:
    """The parts in the paper's order: question, instruction, required form of the answer."""
    end = f"{form}\n{final}"
    return Prompt(f"{question}\n{plain} {end}", f"{question}\n{grounded} {end}")


PAPER: dict[str, Prompt] = {
    "en": _paper(
        "Question: {question}",
        "Please perform step-by-step reasoning to answer the question about the image.",
        "Please refer to the given information and perform step-by-step reasoning to answer the question "
        "about the image.",
        "Answer in this format:\nReasoning Process: all thinking steps",
        r"Final answer: \boxed{your short answer here}",
    ),
    "bg": _paper(
        "Въпрос: {question}",
        "Моля, разсъждавайте стъпка по стъпка, за да отговорите на въпроса за изображението.",
        "Моля, използвайте дадената информация и разсъждавайте стъпка по стъпка, за да отговорите на въпроса "
        "за изображението.",
        "Отговорете в следния формат:\nПроцес на разсъждение: всички стъпки",
        r"Окончателен отговор: \boxed{вашият кратък отговор тук}",
    ),
    "zh": _paper(
        "问题：{question}",
        "请逐步推理，回答关于图片的问题。",
        "请参考给定的信息并逐步推理，回答关于图片的问题。",
        "请按以下格式回答：\n推理过程：所有思考步骤",
        r"最终答案：\boxed{在此填写简短答案}",
    ),
    "pt": _paper(
        "Pergunta: {question}",
        "Por favor, raciocine passo a passo para responder à pergunta sobre a imagem.",
        "Por favor, consulte as informações fornecidas e raciocine passo a passo para responder à pergunta "
        "sobre a imagem.",
        "Responda neste formato:\nProcesso de raciocínio: todos os passos",
        r"Resposta final: \boxed{sua resposta curta aqui}",
    ),
    "ru": _paper(
        "Вопрос: {question}",
        "Пожалуйста, рассуждайте шаг за шагом, чтобы ответить на вопрос об изображении.",
        "Пожалуйста, обратитесь к данной информации и рассуждайте шаг за шагом, чтобы ответить на вопрос "
        "об изображении.",
        "Ответьте в таком формате:\nХод рассуждений: все шаги",
        r"Окончательный ответ: \boxed{ваш краткий ответ здесь}",
    ),
    "es": _paper(
        "Pregunta: {question}",
        "Por favor, razona paso a paso para responder a la pregunta sobre la imagen.",
        "Por favor, consulta la información dada y razona paso a paso para responder a la pregunta sobre "
        "la imagen.",
        "Responde en este formato:\nProceso de razonamiento: todos los pasos",
        r"Respuesta final: \boxed{tu respuesta corta aquí}",
    ),
}

_BE_SHORT = {
    "en": "Your final answer should be short and concise.",
    "bg": "Окончателният ви отговор трябва да е кратък и ясен.",
    "zh": "最终答案应简短扼要。",
    "pt": "Sua resposta final deve ser curta e concisa.",
    "ru": "Окончательный ответ должен быть кратким и точным.",
    "es": "Tu respuesta final debe ser corta y concisa.",
}


def _concise(language: str, sentence: str) -> Prompt:
    """The paper's prompt without knowledge, and the sentence, in all modes."""
    text = f"{PAPER[language].plain}\n{sentence}"
    return Prompt(text, text)


CONCISE: dict[str, Prompt] = {language: _concise(language, said) for language, said in _BE_SHORT.items()}

_ENTITY = _paper(
    "Question: {question}",
    "Please refer to the given information and then perform step-by-step reasoning to answer the question "
    "about the image.",
    "Please refer to the given information and then perform step-by-step reasoning to answer the question "
    "about the image.",
    "Answer in this format:\nReasoning Process: your thinking steps here",
    r"Final answer: \boxed{your short answer here}",
)
ENTITY: dict[str, Prompt] = {"en": _ENTITY}

_LETTERED = Choices("{letter}: {text}", "\n", "Choices:\n")
LETTER: dict[str, Prompt] = {
    "en": Prompt(
        "Answer according to the image with the option's letter from the given choices directly.\n{question}",
        "Please refer to the given information and perform step-by-step reasoning to answer the question "
        "about the image. Your final answer should only be the option's letter.\n{question}\n"
        "Answer in this format:\nReasoning Process: all thinking steps\n"
        r"Final answer: \boxed{the option's letter}",
        _LETTERED,
    )
}

_NUMBERED = Choices("{number}. {text}", " ")
#: What the box holds when options are numbered, beside the words of `PAPER` in that language.
_NUMBER_OF = {
    "en": "the number of the right option",
    "bg": "номерът на верния вариант",
    "zh": "正确选项的编号",
    "pt": "o número da opção correta",
    "ru": "номер верного варианта",
    "es": "el número de la opción correcta",
}


def _numbered(language: str) -> Prompt:
    """The paper's prompt, with an option's number in the box; it is the same in all modes."""
    words, _, _ = PAPER[language].plain.rpartition(r"\boxed{")
    text = f"{words}\\boxed{{{_NUMBER_OF[language]}}}"
    return Prompt(text, text, _NUMBERED)


NUMBER: dict[str, Prompt] = {language: _numbered(language) for language in PAPER}

SHORT: dict[str, Prompt] = dict.fromkeys(PAPER, Prompt("{question}", "{question}", Choices("- {text}", "\n")))
BARE: dict[str, Prompt] = dict.fromkeys(PAPER, Prompt("{question}", "{question}", None))

PROMPTS: Registry[Mapping[str, Prompt]] = Registry(
    "prompt style",
    {"paper": PAPER, "concise": CONCISE, "entity": ENTITY, "letter": LETTER, "number": NUMBER, "short": SHORT,
     "bare": BARE},
)  # fmt: skip
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
