"""Benchmarks on the Hugging Face hub: their files are fetched into the hub's cache and read from there.

A download and a local copy are the same files, so there is one way to read them (`parquet.py`,
`records.py`). `datasets.load_dataset` would convert them once more and decode every picture on the way.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFiles:
    """A data set's files on the hub.

    Args:
        repo: its id.
        pattern: the files of a split; `{split}` is replaced.
        revision: branch, tag or commit.
    """

    repo: str
    pattern: str = "data/{split}-*.parquet"
    revision: str = "main"

    def fetch(self, split: str) -> Path:
        """The folder that holds the split's files; what is in the cache is not fetched again.

        Raises:
            ValueError: the hub cannot be reached, or refuses; names the files and where to put them.
        """
        from huggingface_hub import snapshot_download

        pattern = self.pattern.format(split=split)
        logger.info("fetching %s of %s from the hub", pattern, self.repo)
        try:
            folder = snapshot_download(
                self.repo, repo_type="dataset", revision=self.revision, allow_patterns=[pattern]
            )
        except Exception as error:  # the hub, its HTTP library and the disk raise many kinds
            raise ValueError(
                f"{self.repo} cannot be fetched ({_line(error)}). {self.remedy(split)}"
            ) from error
        return Path(folder)

    def remedy(self, split: str) -> str:
        """How to get the files by hand."""
        pattern = self.pattern.format(split=split)
        offline = " (HF_HUB_OFFLINE is set: unset it to download here)" if _offline() else ""
        return (
            f"Where there is a network{offline}, run: hf download {self.repo} --repo-type dataset "
            f"--include '{pattern}' --local-dir DIR; then give --data DIR"
        )


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
