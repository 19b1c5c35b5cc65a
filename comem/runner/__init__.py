"""Where the tables meet: answer a benchmark's questions in a mode, into a run folder, and score it.

A run folder is complete: `run.json` (resolved configuration, versions, platform, counts),
`predictions.jsonl` (one line a question, appended as they come), `errors.jsonl` (questions that could
not be answered, with the reason) and `metrics.json`. Running again resumes by id.
"""

from __future__ import annotations

from comem.runner.answering import AnswerLike, Contexts, ModeLike, Progress, RunCounts, predict
from comem.runner.scoring import evaluate

__all__ = ["AnswerLike", "Contexts", "ModeLike", "Progress", "RunCounts", "evaluate", "predict"]
