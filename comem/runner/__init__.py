"""Where the tables meet: answer a benchmark's questions in a mode, into a run folder, and score it.

A run folder is complete: `run.json` (resolved configuration, command, versions, commit, checksums of the
data, platform, counts of every call), `predictions.jsonl` (one line a question, appended as they come),
`errors.jsonl` (questions that could not be answered, with the reason) and `metrics.json`. Running again
resumes by id. A run may be divided among processes: each part has a folder of the same kind in `shards/`,
and `merge_shards` puts them together by id.
"""

from __future__ import annotations

from comem.runner.answering import AnswerLike, Contexts, ModeLike, Progress, RunCounts, predict
from comem.runner.merge import MergeCounts, being_merged, is_complete, merge_shards
from comem.runner.plan import Processes, Shard
from comem.runner.scoring import evaluate

__all__ = [
    "AnswerLike", "Contexts", "MergeCounts", "ModeLike", "Processes", "Progress", "RunCounts", "Shard",
    "being_merged", "evaluate", "is_complete", "merge_shards", "predict",
]  # fmt: skip
