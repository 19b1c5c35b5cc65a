"""The passage of a row: its title and the best description that is not empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comem.retrieval.corpus.base import CorpusError

# The best description comes first: the section beside the picture, then the page, then captions.
# (The authors take the section, "else the page", but test a NaN for truth and so never fall back.)
DESCRIPTIONS = {
    "section": "context_section_description",
    "page": "context_page_description",
    "reference": "caption_reference_description",
    "alt": "caption_alt_text_description",
    "attribution": "caption_attribution_description",
}
EMPTY_WORDS = frozenset({"", "nan", "null", "none", "<na>", "n/a"})


def clean(value: Any) -> str:
    """The text without surrounding blanks; "" for missing values however they were spelled."""
    if value is None:
        return ""
    text = " ".join(str(value).replace("\x00", "").split())
    return "" if text.lower() in EMPTY_WORDS else text


def passage(
    row: Mapping[str, Any],
    max_chars: int | None = None,
    descriptions: Sequence[str] = tuple(DESCRIPTIONS),
    title: bool = True,
) -> str:
    """`"title: best non-empty description"` of a row (paper, section on the knowledge base).

    Args:
        row: WIT's columns; a column `text`, as one's own corpora have it, comes before all descriptions.
        max_chars: cut to this many characters.
        descriptions: names of `DESCRIPTIONS`, the preferred one first.
        title: whether the title stands before the description.
    """
    name = clean(row.get("page_title")) if title else ""
    columns = ("text", *(DESCRIPTIONS[short] for short in descriptions))
    description = next((text for column in columns if (text := clean(row.get(column)))), "")
    return ": ".join(part for part in (name, description) if part)[: max_chars or None]


def check_descriptions(names: Sequence[str]) -> None:
    """Refuses descriptions that WIT does not have.

    Raises:
        CorpusError: naming the unknown ones.
    """
    unknown = [name for name in names if name not in DESCRIPTIONS]
    if unknown or not names:
        raise CorpusError(
            f"descriptions {', '.join(unknown) or '(none)'}: choose of {', '.join(DESCRIPTIONS)}, best first"
        )
