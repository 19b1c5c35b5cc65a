"""What lmms-eval's entry point `lmms_eval.models` finds: our model's name and class, and our tasks.

lmms-eval 0.7.3 has no entry point for tasks, and reads LMMS_EVAL_PLUGINS after its table of tasks is made. So
the one entry point that it has does both: it adds the folder of our tasks to those that are looked through.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

#: The tasks' folder, for `--include_path` too.
TASKS = Path(__file__).with_name("tasks")


def manifest() -> Any:
    """The row of lmms-eval's table of models; imported by lmms-eval alone."""
    from lmms_eval.models.registry_v2 import ModelManifest

    offer_tasks()
    return ModelManifest(model_id="comem", chat_class_path="comem.lmms.model.Comem")


def offer_tasks() -> None:
    """Have lmms-eval look through our tasks' folder as well; their names all begin with `comem_`."""
    try:
        from lmms_eval.tasks import TaskManager
    except ImportError:  # another version's, or one that is just being imported: --include_path is left
        return
    plain = TaskManager.initialize_tasks
    if hasattr(plain, "comem"):
        return

    @functools.wraps(plain)
    def initialize_tasks(
        self: Any, include_path: str | list[str] | None = None, *given: Any, **named: Any
    ) -> Any:
        paths = [include_path] if isinstance(include_path, str) else list(include_path or ())
        return plain(self, [*paths, str(TASKS)], *given, **named)

    initialize_tasks.comem = True  # type: ignore[attr-defined]
    TaskManager.initialize_tasks = initialize_tasks
