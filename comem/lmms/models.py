"""What LMMS_EVAL_PLUGINS=comem.lmms looks for: no further models, ours comes by the entry point."""

from __future__ import annotations

AVAILABLE_MODELS: dict[str, str] = {}
