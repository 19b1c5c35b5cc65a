"""`comem oven`: an index of Wikipedia's titles, and answers linked to the entities that they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comem.config import option, take_paths
from comem.io.console import Progress, print_line, quiet
from comem.linking.build import build_title_index
from comem.linking.index import TitleIndex
from comem.linking.link import LinkCounts, LinkSettings, link_file
from comem.linking.titles import TOKENIZERS


@dataclass(frozen=True, kw_only=True)
class TitleIndexSettings:
    """Index Wikipedia's titles for BM25.

    Titles: .jsonl or .tsv (id, tab, title), plain or .gz. The official tokens are BERT's (bert-base-uncased).

    Attributes:
        titles: Wikidata ids and titles.
        output: the index folder.
        tokenizer: how titles are cut into tokens.
        vocabulary: word pieces (vocab.txt), for bert.
    """

    titles: Path = option(metavar="FILE")
    output: Path = option(metavar="DIR")
    tokenizer: str = option("words", metavar="NAME", choices="comem.linking.titles:TOKENIZERS")
    vocabulary: Path | None = option(None, metavar="FILE")

    def __post_init__(self) -> None:
        take_paths(self)


@dataclass(frozen=True, kw_only=True)
class LinkFileSettings(LinkSettings):
    """Add the entity that each answer names to a file of predictions.

    Attributes:
        index: made by comem oven index.
        predictions: ids and answers.
        output: a second run goes on.
    """

    index: Path = option(metavar="DIR")
    predictions: Path = option(metavar="FILE")
    output: Path = option(metavar="FILE")

    def __post_init__(self) -> None:
        super().__post_init__()
        take_paths(self)


def index_titles(settings: TitleIndexSettings, progress: Progress = quiet) -> TitleIndex:
    """The index of a titles file, made unless it is there.

    Raises:
        ValueError: a broken titles file, no vocabulary, or a folder that holds something else.
    """
    tokenizer = TOKENIZERS[settings.tokenizer](settings.vocabulary)
    return build_title_index(settings.titles, settings.output, tokenizer, progress)


def show_index(index: TitleIndex, settings: TitleIndexSettings) -> None:
    """Its size."""
    size, tokens = sum(index.manifest["bytes"].values()) / 2**20, index.manifest["tokens"]
    name = settings.tokenizer
    print_line(f"{len(index):,} titles, {tokens:,} tokens ({name}), {size:,.1f} MiB: {settings.output}")


def link(settings: LinkFileSettings, progress: Progress = quiet) -> LinkCounts:
    """Links a file of predictions.

    Raises:
        ValueError: no index, or what `link_file` refuses.
    """
    index, how = TitleIndex(settings.index), LinkSettings(settings.whole, settings.max_chars, settings.keep)
    with progress("linking", unit="answers") as advance:
        return link_file(index, settings.predictions, settings.output, how, advance)


def show_links(counts: LinkCounts, settings: LinkFileSettings) -> None:
    """How many answers were linked."""
    print_line(f"{counts.linked:,} answers linked, {counts.resumed:,} were done before: {settings.output}")
    if counts.empty:
        print_line(f"{counts.empty:,} of them share no word with any title and got no entity")
