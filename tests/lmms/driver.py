"""Runs jobs inside lmms-eval, several in one process: `python driver.py JOBS.json OUT.json`; no test itself.

A job: model ("comem"; "fixed" and "fixed_simple" with `answers` by task, in order or by id), model_args,
tasks, include (folders of tasks), batch_size, gen_kwargs. Out comes, per job, the results and the texts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager


class Fixed(lmms):  # type: ignore[misc]
    """Says what it was told to say."""

    is_simple = False

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__()
        self.answers = answers
        self.seen: dict[str, list[Any]] = {}

    def generate_until(self, requests: list[Any]) -> list[str]:
        said = []
        for request in requests:
            doc, task, split = request.args[3:]
            document = self.task_dict[task][split][doc]
            if self.is_simple:
                images, text = request.args[2](document), request.args[0]
            else:
                parts = request.args[1](document)[0]["content"]
                images = [part["url"] for part in parts if part["type"] != "text"]
                text = "".join(part["text"] for part in parts if part["type"] == "text")
            sizes = [list(image.size) if hasattr(image, "size") else str(image) for image in images]
            self.seen.setdefault(task, []).append([document.get("id", doc), text, sizes])
            told = self.answers[task]  # in order, or by id
            said.append(told[doc] if isinstance(told, list) else told.get(str(document["id"]), ""))
        return said

    def loglikelihood(self, requests: list[Any]) -> Any:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> Any:
        raise NotImplementedError


class FixedSimple(Fixed):
    """The same by the simple interface."""

    is_simple = True


def run(job: dict[str, Any], managers: dict[str, TaskManager]) -> dict[str, Any]:
    where = json.dumps(job["include"])
    if where not in managers:
        managers[where] = TaskManager(include_path=job["include"], include_defaults=False, model_name="comem")
    kinds = {"fixed": Fixed, "fixed_simple": FixedSimple}
    model = kinds[job["model"]](job["answers"]) if job["model"] in kinds else job["model"]
    try:
        found = simple_evaluate(
            model=model, model_args=job.get("model_args", ""), tasks=job["tasks"], log_samples=True,
            batch_size=job.get("batch_size", 1), gen_kwargs=job.get("gen_kwargs"), bootstrap_iters=0,
            task_manager=managers[where],
        )  # fmt: skip
    except BaseException as error:  # the job's answer: what a user would have seen
        chain = [error]
        while chain[-1].__cause__ is not None or chain[-1].__context__ is not None:
            chain.append(chain[-1].__cause__ or chain[-1].__context__)
        return {"error": " | ".join(f"{type(one).__name__}: {one}" for one in chain)}
    texts = {
        task: [[one["doc_id"], one["doc"].get("id"), one["filtered_resps"][0]] for one in samples]
        for task, samples in found["samples"].items()
    }
    if folder := job.get("samples"):
        for task, samples in found["samples"].items():
            lines = [json.dumps(one, default=str) for one in samples]
            (Path(folder) / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    return {"results": found["results"], "texts": texts, "seen": getattr(model, "seen", None)}


if __name__ == "__main__":
    made: dict[str, TaskManager] = {}
    jobs = json.loads(Path(sys.argv[1]).read_text())
    out = {name: run(job, made) for name, job in jobs.items()}
    Path(sys.argv[2]).write_text(json.dumps(out, default=str))
