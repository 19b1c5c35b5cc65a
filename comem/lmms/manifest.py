"""What lmms-eval's entry point `lmms_eval.models` finds: the name of our model, and where its class is."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The row of lmms-eval's table of models; imported by lmms-eval alone."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="comem", chat_class_path="comem.lmms.model.Comem")
