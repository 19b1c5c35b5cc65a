"""What a run would do, without doing it: parameters, memory, steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from comem.backbones.specs import resolve_backbone
from comem.memory.lora import add_lora, trainable_count
from comem.memory.qformer import QFormer
from comem.training.build import qformer_config
from comem.training.dataset import load_examples
from comem.training.order import Order
from comem.training.settings import TrainSettings
from comem.training.trainer import use_bf16

# Float32 weight, gradient and AdamW's two moments.
TRAINABLE_BYTES = 16
# Bytes a token and layer keeps per unit of width in half precision, attention matrices aside:
# Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", eq. 2;
# with checkpointing only the layer's input.
KEPT, KEPT_CHECKPOINTED = 34, 2


@dataclass(frozen=True)
class Plan:
    """The numbers of a run that has not started."""

    model: str
    examples: int
    items: int
    steps: int
    base_parameters: int
    lora_parameters: int
    qformer_parameters: int
    precision: str
    weight_bytes: int
    token_bytes: int

    @property
    def trainable(self) -> int:
        return self.lora_parameters + self.qformer_parameters

    def lines(self) -> list[tuple[str, str]]:
        """Label and value, for printing."""
        share = 100 * self.trainable / max(self.base_parameters, 1)
        gigabytes = self.weight_bytes / 2**30
        return [
            ("model", f"{self.model}, {self.base_parameters / 1e6:,.1f} M frozen weights, {self.precision}"),
            ("data", f"{self.examples:,} questions, {self.items:,} knowledge items"),
            ("steps", f"{self.steps:,}"),
            ("LoRA", f"{self.lora_parameters / 1e6:,.2f} M"),
            ("Q-Former", f"{self.qformer_parameters / 1e6:,.2f} M"),
            ("trainable", f"{self.trainable / 1e6:,.2f} M = {share:.2f} % of the model"),
            ("memory", f"{gigabytes:,.2f} GiB for weights, gradients and AdamW (estimate)"),
            ("", f"+ {self.token_bytes / 2**20:,.3f} MiB for each token of a micro-batch (estimate)"),
            ("checkpoint", f"{self.trainable * 12 / 2**30:,.2f} GiB each"),
        ]


def make_plan(settings: TrainSettings) -> Plan:
    """The plan of a run; the model is only built on the meta device, from its config."""
    examples = load_examples(settings.data, settings.knowledge or None) if settings.data else []
    order = Order(max(len(examples), 1), settings.batch_size, settings.seed)
    spec = resolve_backbone(settings.model)
    base, lora, qformer, layers, width = _count(settings, spec.source)
    half = use_bf16(settings.precision)
    kept = KEPT_CHECKPOINTED if settings.checkpointing else KEPT
    return Plan(
        model=spec.name,
        examples=len(examples),
        items=sum(min(len(example.items), settings.max_items) for example in examples),
        steps=order.total_steps(settings.epochs, settings.max_steps),
        base_parameters=base,
        lora_parameters=lora,
        qformer_parameters=qformer,
        precision="bf16" if half else "fp32",
        weight_bytes=base * (2 if half else 4) + (lora + qformer) * TRAINABLE_BYTES,
        token_bytes=layers * width * kept * (1 if half else 2),
    )


def _count(settings: TrainSettings, source: str) -> tuple[int, int, int, int, int]:
    """Parameters of base, LoRA and Q-Former; layers and width of the language model."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config: Any = AutoConfig.from_pretrained(source)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        base = sum(p.numel() for p in model.parameters())
        sizes = settings.qformer
        fixed = sizes if sizes.output_scale != "auto" else type(sizes)(**{**vars(sizes), "output_scale": 1.0})
        qformer = sum(p.numel() for p in QFormer(qformer_config(fixed, model)).parameters())
        add_lora(model, settings.lora)
    text = config.get_text_config()
    return base, trainable_count(model), qformer, text.num_hidden_layers, text.hidden_size
