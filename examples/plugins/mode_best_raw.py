"""A mode: the best item as it is, as in RAG, and the others as memory.

comem predict --plugin examples/plugins/mode_best_raw.py --mode best_raw --encoder toy …
"""

from comem.backbones.base import item_turns
from comem.modes import MODES
from comem.modes.base import item_lists
from comem.modes.comem import ComemMode


@MODES.register("best_raw")
class BestRaw(ComemMode):
    name = "best_raw"

    def remembered(self, items):
        return items[1:]

    def conversations(self, examples, contexts):
        form = self.backbone.spec.rag
        return [
            [*item_turns(form, items[:1]), self.question_turn(example, bool(items))]
            for example, items in zip(examples, item_lists(examples, contexts), strict=True)
        ]

    @property
    def opens_item_images(self):
        return True
