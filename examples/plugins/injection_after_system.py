"""An injection: memory behind the system turn instead of in front of everything.

comem predict --plugin examples/plugins/injection_after_system.py --injection after_system …
"""

from dataclasses import dataclass

from comem.backbones.positions import free_ids
from comem.memory.injection import INJECTIONS, Prefix


@dataclass(frozen=True)
class AfterSystem(Prefix):
    """A prefix that starts elsewhere, so that training and the engine take it as they take the prefix."""

    end_of_turn: int = -1

    @property
    def name(self):
        return "after_system"

    def starts(self, ids, mask):
        """Each row's column behind its first end of turn; chat templates open with the system's."""
        return [row.index(self.end_of_turn) + 1 for row in ids.tolist()]


def after_system(backbone, encoder=None):
    end = backbone.process.tokenizer.convert_tokens_to_ids("<|im_end|>")
    return AfterSystem(tuple(free_ids(backbone.model, backbone.processor)), end)


INJECTIONS.register("after_system", after_system)
