"""InternLM-XComposer2.5: one query with `<ImageHere>` per image, the images as files.

The call is that of its model card (github.com/InternLM/InternLM-XComposer, 2.5):
`model.chat(tokenizer, query, image, do_sample=…, num_beams=…, use_meta=True)` gives (answer, history).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from comem.backbones.base import GenerationConfig
from comem.backbones.remote import RemoteBackbone, images_of, load_remote, with_placeholders
from comem.backbones.specs import BackboneError, BackboneSpec
from comem.io.images import open_image
from comem.types import Message

_IMAGE = "<ImageHere>"
_STRUCTURE = (_IMAGE, "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]", "<s>", "</s>")


@dataclass(frozen=True)
class InternLMXComposer(RemoteBackbone):
    """The processor is the tokenizer."""

    def reply(self, conversation: Sequence[Message], config: GenerationConfig) -> tuple[str, int]:
        """As `RemoteBackbone.reply`; images pass through files, which the model's `chat` reads."""
        with tempfile.TemporaryDirectory() as folder, self._autocast():
            files = [str(Path(folder) / f"{i}.png") for i, _ in enumerate(images_of(conversation))]
            for file, ref in zip(files, images_of(conversation), strict=True):
                open_image(ref).save(file)
            asked = query(conversation)
            answer, _ = self.model.chat(self.processor, asked, files, use_meta=True, **config.arguments())
        return answer, self.prompt_length(conversation)

    def prompt_length(self, conversation: Sequence[Message]) -> int:
        """Tokens of the query as text, image placeholders in it."""
        return len(self.processor(query(conversation))["input_ids"])

    def _autocast(self) -> torch.autocast:
        """As on the model card: parts of its code make float32 images for 16-bit weights."""
        low = self.dtype in (torch.float16, torch.bfloat16)
        return torch.autocast(self.device.type, self.dtype if low else None, enabled=low)


def query(conversation: Sequence[Message]) -> str:
    """All user turns as one query, a line each, images as placeholders where they stood.

    Raises:
        BackboneError: a turn of the assistant or of the system.
    """
    if any(message.role != "user" for message in conversation):
        raise BackboneError("internlm_xcomposer2_5 is asked with user turns only")
    text = "\n".join(with_placeholders(message, f"{_IMAGE}; ", _STRUCTURE) for message in conversation)
    if text.count(_IMAGE) < 2:
        return text
    number = count(1)  # several are numbered, as on the model card
    return re.sub(re.escape(_IMAGE), lambda _: f"Image{next(number)} {_IMAGE}", text)


def load(spec: BackboneSpec, dtype: Any, device: Any, trust_remote_code: bool) -> InternLMXComposer:
    """The model with its tokenizer; raises as `load_remote`."""
    model, tokenizer = load_remote(spec, dtype, device, trust_remote_code)
    model.tokenizer = tokenizer  # its chat looks there
    return InternLMXComposer(spec, model, tokenizer)
