"""What happens while an answer is being made: streaming, stop words, limits, clients that have gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from comem.backbones.base import Watch

Ending = Literal["stop", "length", "cancelled"]


@dataclass
class Spoken:
    """The answer of one row so far.

    Attributes:
        limit: the most tokens.
        stop: texts before which it ends.
        on_text: is given each new piece of text; the pieces joined are `text`.
        cancelled: asked at each token whether nobody waits any longer.
        tokens: made so far, the ending one apart.
        text: what they say, as far as it has been given out.
        ending: why it ended; None while it goes on.
    """

    limit: int
    stop: tuple[str, ...] = ()
    on_text: Callable[[str], object] | None = None
    cancelled: Callable[[], bool] | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ending: Ending | None = None

    def take(self, token: int, tokenizer: Any, ends: frozenset[int]) -> None:
        """One more token."""
        if self.cancelled is not None and self.cancelled():
            self.ending = "cancelled"
            return
        if token in ends:
            self._say(self._read(tokenizer))
            self.ending = "stop"
            return
        self.tokens.append(token)
        last = len(self.tokens) >= self.limit
        if not (last or self.stop or self.on_text):
            return  # nobody looks before the end: decoding all of it at every token is not for nothing
        text = self._read(tokenizer)
        cut = min((at for word in self.stop if (at := text.find(word)) >= 0), default=-1)
        if cut >= 0:
            self._say(text[:cut].rstrip())
            self.ending = "stop"
        elif last:
            self._say(text)
            self.ending = "length"
        else:
            self._say(self._certain(text))

    def finish(self, text: str) -> str:
        """The whole answer, given what the backbone says that it is."""
        if not self.tokens and self.ending is None:  # a backbone that shows nobody its tokens
            self._say(text)
            self.ending = "stop"
        return self.text

    def _read(self, tokenizer: Any) -> str:
        return str(tokenizer.decode(self.tokens, skip_special_tokens=True)).strip()

    def _certain(self, text: str) -> str:
        """Without what the next token may still change: half a character, half a stop word."""
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        held = (n for word in self.stop for n in range(len(word) - 1, 0, -1) if text.endswith(word[:n]))
        return text[: len(text) - max(held, default=0)].rstrip()

    def _say(self, text: str) -> None:
        more = text[len(self.text) :]
        self.text = text if len(text) > len(self.text) else self.text
        if more and self.on_text is not None:
            self.on_text(more)


class Watched(Watch):
    """Watches a batch.

    Args:
        rows: one a row, in order.
        tokenizer: of the backbone.
        ends: ids that end an answer.
    """

    def __init__(self, rows: Sequence[Spoken], tokenizer: Any, ends: frozenset[int]) -> None:
        self.rows, self._tokenizer, self._ends = rows, tokenizer, ends

    def __call__(self, tokens: Sequence[int]) -> list[bool]:
        """As `Watch`."""
        for row, token in zip(self.rows, tokens, strict=True):
            if row.ending is None and token >= 0:
                row.take(token, self._tokenizer, self._ends)
        return [row.ending is not None for row in self.rows]


def end_ids(model: Any) -> frozenset[int]:
    """Ids that end an answer of this model."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return frozenset(() if ids is None else ids if isinstance(ids, (list, tuple)) else (ids,))
