"""mPLUG-Owl3: `<|image|>` in the text, images beside it, an empty assistant turn at the end.

The calls are those of its model card (github.com/X-PLUG/mPLUG-Owl, mPLUG-Owl3): `model.init_processor`,
`processor(messages, images=…, videos=None)`, `model.generate(**inputs, tokenizer=…, decode_text=True)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comem.backbones.base import GenerationConfig
from comem.backbones.remote import RemoteBackbone, images_of, load_remote, with_placeholders
from comem.backbones.specs import BackboneSpec
from comem.io.images import open_image
from comem.types import Message

_IMAGE = "<|image|>"
_STRUCTURE = (_IMAGE, "<|video|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")


@dataclass(frozen=True)
class MplugOwl3(RemoteBackbone):
    """The processor that `init_processor` gives, with its tokenizer beside it."""

    tokenizer: Any

    def reply(self, conversation: Sequence[Message], config: GenerationConfig) -> tuple[str, int]:
        """As `RemoteBackbone.reply`, by the model's own `generate`, which decodes the text itself."""
        inputs = self._inputs(conversation)
        tokens = int(inputs["input_ids"].shape[-1])
        inputs.to(self.device)
        inputs.update({"tokenizer": self.tokenizer, "decode_text": True, **config.arguments()})
        answer = self.model.generate(**inputs)
        return (answer if isinstance(answer, str) else answer[0]), tokens

    def prompt_length(self, conversation: Sequence[Message]) -> int:
        """As `RemoteBackbone.prompt_length`; opens the images."""
        return int(self._inputs(conversation)["input_ids"].shape[-1])

    def _inputs(self, conversation: Sequence[Message]) -> Any:
        images = [open_image(ref) for ref in images_of(conversation)]
        return self.processor(messages(conversation), images=images or None, videos=None)


def messages(conversation: Sequence[Message]) -> list[dict[str, str]]:
    """Turns as the processor wants them: each image a line of its own before what follows."""
    turns = [
        {"role": m.role, "content": with_placeholders(m, f"{_IMAGE}\n", _STRUCTURE)} for m in conversation
    ]
    return [*turns, {"role": "assistant", "content": ""}]


def load(spec: BackboneSpec, dtype: Any, device: Any, trust_remote_code: bool) -> MplugOwl3:
    """The model with its own processor; raises as `load_remote`."""
    model, tokenizer = load_remote(spec, dtype, device, trust_remote_code, attn_implementation="sdpa")
    return MplugOwl3(spec, model, model.init_processor(tokenizer), tokenizer)
