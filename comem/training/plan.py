"""What a run would do, without doing it: parameters, memory, steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from comem.backbones.row import BackboneSpec
from comem.backbones.specs import resolve_backbone
from comem.memory.lora import add_lora, trainable_count
from comem.memory.qformer import QFormer
from comem.training.build import qformer_config
from comem.training.dataset import load_examples
from comem.training.order import Order
from comem.training.precision import use_bf16
from comem.training.selection import select
from comem.training.settings import TrainSettings

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
    reader: str
    reader_parameters: int
    lora_parameters: int
    qformer_parameters: int
    precision: str
    weight_bytes: int
    token_bytes: int

    @property
    def trainable(self) -> int:
        return self.lora_parameters + self.qformer_parameters

    @property
    def _reader(self) -> str:
        if not self.reader:
            return "the model itself, in the same copy of its weights"
        return f"{self.reader}, {self.reader_parameters / 1e6:,.1f} M frozen weights more"

    def lines(self) -> list[tuple[str, str]]:
        """Label and value, for printing."""
        share = 100 * self.trainable / max(self.base_parameters, 1)
        gigabytes = self.weight_bytes / 2**30
        return [
            ("model", f"{self.model}, {self.base_parameters / 1e6:,.1f} M frozen weights, {self.precision}"),
            ("reader", self._reader),
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
    found = load_examples(settings.data, settings.knowledge or None) if settings.data else []
    examples = select(found, settings) if found else []
    order = Order(max(len(examples), 1), settings.batch_size, settings.seed, settings.shuffle)
    spec = resolve_backbone(settings.model)
    reading = resolve_backbone(settings.reader) if settings.reader else None
    model, reader = on_meta(spec), on_meta(reading) if reading else None
    base, apart = _parameters(model), 0 if reader is None else _parameters(reader)
    lora, qformer = _count(settings, model, reader)
    text = [network.config.get_text_config() for network in (model, reader) if network is not None]
    layer_widths = max(config.num_hidden_layers * config.hidden_size for config in text)
    half = use_bf16(settings.precision)
    kept = KEPT_CHECKPOINTED if settings.checkpointing else KEPT
    return Plan(
        model=spec.name,
        examples=len(examples),
        items=sum(min(len(example.items), settings.max_items) for example in examples),
        steps=order.total_steps(settings.epochs, settings.max_steps),
        base_parameters=base,
        reader=reading.name if reading else "",
        reader_parameters=apart,
        lora_parameters=lora,
        qformer_parameters=qformer,
        precision="bf16" if half else "fp32",
        weight_bytes=(base + apart) * (2 if half else 4) + (lora + qformer) * TRAINABLE_BYTES,
        token_bytes=layer_widths * kept * (1 if half else 2),
    )


def on_meta(spec: BackboneSpec) -> Any:
    """The model without its weights."""
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(spec.source)
    with torch.device("meta"):
        return getattr(transformers, spec.model_class).from_config(config)


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _count(settings: TrainSettings, model: Any, reader: Any) -> tuple[int, int]:
    """Parameters of LoRA and Q-Former; the model gets its LoRA."""
    sizes = settings.qformer
    if sizes.output_scale == "auto":  # its value is read off weights, which are not there
        sizes = replace(sizes, output_scale=1.0)
    with torch.device("meta"):
        qformer = _parameters(QFormer(qformer_config(sizes, model, reader)))
        add_lora(model, settings.lora)
    return trainable_count(model), qformer
