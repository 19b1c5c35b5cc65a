"""From requests to what a memory is asked: texts, images, turns, questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comem.io.images import ImageError
from comem.serve.shapes import ChatRequest, DecisionsRequest, SystemOneRequest
from comem.store.incoming import reference_of
from comem.types import ImageRef, Message

#: An image by its URL: of data, or one that is fetched.
Open = Callable[[str], ImageRef]
_TEXT = ("text", "input_text", "output_text")
_IMAGE = ("image_url", "input_image")


class RequestError(ValueError):
    """A request that cannot be answered; names the field."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class Images:
    """Opens the images of one request, so many at most.

    Args:
        limit: of images.
        fetch: fetches one by its http(s) URL; None refuses those.
    """

    def __init__(self, limit: int, fetch: Open | None = None) -> None:
        self._left, self._limit, self._fetch = limit, limit, fetch

    def __call__(self, url: str) -> ImageRef:
        """The image of a data URI, or behind a URL.

        Raises:
            RequestError: too many, or neither data nor a URL that may be fetched.
        """
        self._left -= 1
        if self._left < 0:
            raise RequestError(f"more than {self._limit} images in a request", "messages", "too_many_images")
        if url[:5].lower() == "data:":
            return reference_of(url)
        if url[:8].lower().startswith(("http://", "https://")):
            if self._fetch is None:
                raise ImageError(
                    "this server fetches no images: send them as data:image/…;base64,… "
                    "(or start it with --fetch-images)"
                )
            return self._fetch(url)
        raise ImageError("an image is given as a data URI or an http(s) URL, never as a path of the server")


def content(parts: str | Sequence[Mapping[str, Any]] | None, images: Images) -> list[str | ImageRef]:
    """Texts and images of a message, in order.

    Raises:
        RequestError: a part of another kind.
    """
    if parts is None or isinstance(parts, str):
        return [parts] if parts else []
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise RequestError("content is a text, or a list of parts with a type", "messages")
    found: list[str | ImageRef] = []
    for part in parts:
        kind = part.get("type")
        if kind in _TEXT:
            found.append(str(part.get("text") or ""))
        elif kind == "input_json":
            found.append(json.dumps(part.get("json", part.get("value")), ensure_ascii=False))
        elif kind in _IMAGE:
            given = part.get("image_url")
            url = given.get("url") if isinstance(given, Mapping) else given
            if not isinstance(url, str):
                raise RequestError("an image part needs image_url", "messages")
            found.append(images(url))
        else:
            raise RequestError(f"content of type {kind!r} is not read here: send text and images", "messages")
    return found


def conversation(request: ChatRequest, images: Images) -> tuple[str, ImageRef | None, tuple[Message, ...]]:
    """The question, its image, and the turns before it.

    Raises:
        RequestError: the last message is not the user's, or is empty.
    """
    last = request.messages[-1]
    if last.role != "user":
        raise RequestError("the last message must be the user's question", "messages")
    turns: list[Message] = []
    for message in request.messages[:-1]:
        role: Any = "system" if message.role == "developer" else message.role
        if parts := content(message.content, images):
            turns.append(Message(role, tuple(parts)))
    parts = content(last.content, images)
    shown = [part for part in parts if isinstance(part, ImageRef)]
    question = "\n".join(part for part in parts if isinstance(part, str))
    if len(shown) > 1:  # the last one is the question's own
        turns.append(Message("user", tuple(shown[:-1])))
    if not question.strip() and not shown:
        raise RequestError("the last message is empty", "messages")
    return question, shown[-1] if shown else None, tuple(turns)


def state_of(request: SystemOneRequest, images: Images) -> tuple[Any, dict[str, ImageRef]]:
    """A System One state, and its images by placeholder; `images` without one are shown before the state."""
    assets: dict[str, ImageRef] = {}
    for name, asset in request.assets.items():
        data = asset.get("data_base64")
        if not isinstance(data, str):
            raise RequestError(f"asset {name!r}: give data_base64", "assets")
        assets[name] = images(f"data:image/{asset.get('format', 'png')};base64,{data}")
    state, names = request.state, []
    for number, url in enumerate(request.images, start=1):
        names.append(f"<image-{number}>")
        assets[names[-1]] = images(url)
    if names and isinstance(state, str):
        state = "".join(names) + state
    elif names:
        state = {"images": names, "state": state}
    return state, assets


def decisions_of(
    request: DecisionsRequest, images: Images
) -> tuple[Any, dict[str, ImageRef], dict[str, Any]]:
    """State, images and questions of a request in OpenAI's shape; questions by their number.

    Raises:
        RequestError: a question of another type, names it.
    """
    assets: dict[str, ImageRef] = {}

    def shown(part: str | ImageRef) -> str:
        if isinstance(part, str):
            return part
        name = f"<image-{len(assets) + 1}>"
        assets[name] = part
        return name

    if isinstance(request.input, str):
        state = request.input
    else:
        lines = []
        for message in request.input:
            if "content" not in message:
                lines.append(json.dumps(message, ensure_ascii=False))
                continue
            text = "".join(shown(part) for part in content(message["content"], images))
            lines.append(text if message.get("role", "user") == "user" else f"{message['role']}: {text}")
        state = "\n".join(lines)
    asked: dict[str, Any] = {}
    for number, each in enumerate(request.questions):
        parts = content(each.get("instructions"), images)
        asked[str(number)] = _question(number, each, "".join(shown(part) for part in parts))
    return state, assets, asked


def _question(number: int, given: Mapping[str, Any], instructions: str) -> dict[str, Any]:
    """A question of OpenAI's decisions as one of System One."""
    kind = given.get("type")
    if kind == "predicate":
        return {"type": "noul", "instructions": instructions}
    if kind == "choice" and isinstance(given.get("choices"), list):
        options = [_option(number, each, "value") for each in given["choices"]]
        if len(dict(options)) < len(options):
            raise RequestError(f"questions[{number}]: a choice comes twice", "questions")
        return {"type": "choice", "instructions": instructions, "criteria": dict(options)}
    if kind == "score" and isinstance(given.get("levels"), list):
        options = [_option(number, each, "label") for each in given["levels"]]
        return {
            "type": "score", "instructions": instructions,
            "criteria": [f"{label}: {text}" if text else label for label, text in options],
        }  # fmt: skip
    raise RequestError(
        f"questions[{number}] of type {kind!r}: give a predicate, a choice with choices, a score with levels",
        "questions",
    )


def _option(number: int, given: Any, key: str) -> tuple[str, Any]:
    """Name and description of a choice or level."""
    if isinstance(given, Mapping) and (name := given.get(key, given.get("value"))) is not None:
        text = str(name).lower() if isinstance(name, bool) else str(name)
        return text, given.get("description")
    if isinstance(given, (str, bool)):
        return str(given), None
    raise RequestError(f"questions[{number}]: {given!r} is no option; give {{{key!r}: …}}", "questions")


def decision_answers(
    request: DecisionsRequest, answers: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """System One's answers in OpenAI's shape, in the questions' order."""
    made: list[dict[str, Any]] = []
    for number, question in enumerate(request.questions):
        answer, name = answers[str(number)], question.get("name")
        if answer["type"] == "noul":
            made.append({"type": "predicate", "name": name, "probability": answer["noul"]})
            continue
        probabilities = list(answer["probabilities"].values())
        if answer["type"] == "choice":
            values = [e.get("value") if isinstance(e, Mapping) else e for e in question["choices"]]
            best = values[max(range(len(values)), key=lambda n: probabilities[n])]
            shares = [
                {"value": value, "probability": p} for value, p in zip(values, probabilities, strict=True)
            ]
            made.append(
                {
                    "type": "choice", "name": name, "choice": best, "confidence": answer["confidence"],
                    "probabilities": shares,
                }
            )  # fmt: skip
            continue
        labels = [_option(number, each, "label")[0] for each in question["levels"]]
        levels = [
            {"value": n, "label": label, "probability": p}
            for n, (label, p) in enumerate(zip(labels, probabilities, strict=True))
        ]
        made.append(
            {
                "type": "score", "name": name, "score": answer["score"], "confidence": answer["confidence"],
                "probabilities": levels,
            }
        )  # fmt: skip
    return made
