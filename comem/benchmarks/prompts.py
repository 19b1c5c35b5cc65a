r"""How questions are asked: templates by style and language, without and with knowledge.

`paper` follows the paper's prompts (step-by-step reasoning, then `Final answer: \boxed{…}`; with
knowledge the model is told to use the given information). `short` is the bare question, for models that
answer in a few words, such as the embedded one.
"""

from __future__ import annotations

from dataclasses import dataclass

from comem.tables import Table


@dataclass(frozen=True)
class Prompt:
    """A template for questions without knowledge and one with it; `{question}` is replaced."""

    plain: str
    grounded: str

    def fill(self, question: str, grounded: bool) -> str:
        """The text of the question turn."""
        return (self.grounded if grounded else self.plain).replace("{question}", question.strip(), 1)


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

SHORT: dict[str, Prompt] = dict.fromkeys(PAPER, Prompt("{question}", "{question}"))

PROMPTS: Table[dict[str, Prompt]] = Table("prompt style", {"paper": PAPER, "short": SHORT})
LANGUAGES = tuple(PAPER)


def ask(question: str, language: str, grounded: bool, style: str = "paper") -> str:
    """The text of the question turn.

    Args:
        question: the bare question.
        language: its language code (a row of the style).
        grounded: whether knowledge is given along with it.
        style: "paper" or "short".

    Raises:
        UnknownNameError: no such style, or no prompt in this language.
    """
    return Table("prompt language", PROMPTS[style])[language].fill(question, grounded)
