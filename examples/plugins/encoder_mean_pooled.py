"""A kind of memory encoder without training: an item's hidden states, averaged over eight stretches.

comem bank build --plugin examples/plugins/encoder_mean_pooled.py --encoder mean_pooled@toy …
"""

import hashlib

import torch

from comem.memory.bank import MemoryBank
from comem.memory.encoder import ENCODERS, EncoderKind, MemoryEncoder, base_digest
from comem.memory.items import item_inputs
from comem.memory.lora import adapters_off
from comem.memory.settings import KnowledgeFormat


class MeanPooled(MemoryEncoder):
    kind, num_vectors = "mean_pooled", 8

    def __init__(self, backbone):
        self.backbone, self.width = backbone, backbone.hidden_size

    @torch.no_grad()
    def encode(self, items, batch_size=16, inputs=None):
        memories = torch.empty(len(items), self.num_vectors, self.width, dtype=self.backbone.dtype)
        for memory, item in zip(memories, items, strict=True):
            one = self.backbone.place(item_inputs([item], self.backbone.processor, KnowledgeFormat()))
            with adapters_off(self.backbone.model):
                hidden = self.backbone.model.base_model(**one).last_hidden_state[0]  # (l, d)
            stretches = hidden.tensor_split(self.num_vectors)
            memory.copy_(torch.stack([s.mean(0) if len(s) else hidden.mean(0) for s in stretches]))
        return MemoryBank(memories, tuple(item.id for item in items), self.fingerprint())

    def fingerprint(self):
        return hashlib.sha256(f"mean_pooled {base_digest(self.backbone.model)}".encode()).hexdigest()


ENCODERS.register("mean_pooled", EncoderKind(MeanPooled))
