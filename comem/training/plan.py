"""What a run would do, without doing it: parameters, memory, steps, hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from comem.backbones.flops import Flops, decoder, output_layer, vision_tower
from comem.backbones.hf import HFBackbone
from comem.backbones.specs import BackboneSpec, load_model_config, load_processor, resolve_backbone
from comem.io.console import print_facts
from comem.memory.encoder import ENCODERS, EncoderPlan
from comem.training.collator import TrainingBatch
from comem.training.data import TrainingExample, load_examples, select
from comem.training.ranks import state, use_bf16
from comem.training.run import VIDEO, build_collator, knowledge_format
from comem.training.schedule import Order
from comem.training.settings import PlanOptions, TrainSettings
from comem.training.trainer import TrainResult


def batch_flops(
    batch: TrainingBatch, encoder: Any, reader: Any, sizes: EncoderPlan, rank: int, recompute: bool
) -> float:
    """Operations of forward and backward: encoder with LoRA, compressor, reader; padding not counted.

    The reader's own images are seen without a backward pass, and so is what it reads without items.

    Args:
        batch: the batch.
        encoder: config of transformers.
        reader: config of transformers; the same one where one model is both.
        sizes: the encoder's beyond its model.
        rank: LoRA's.
        recompute: whether activation checkpointing repeats the layers' forward pass.

    Raises:
        ValueError: the vision tower is of a kind whose operations are not known.
    """
    layers, rest = _images(encoder, batch.items, rank), Flops()
    for length in _lengths(batch.items):
        layers += decoder(encoder.get_text_config(), length, rank=rank)
        rest += sizes.flops(length)
    embeddings = batch.embeddings or (0,) * len(batch.rows)
    memory = [
        len(row) * (count or sizes.num_vectors) for row, count in zip(batch.rows, embeddings, strict=True)
    ]
    for length, more in zip(_lengths(batch.question), memory, strict=True):
        layers += decoder(reader.get_text_config(), length + more)
    rest += output_layer(reader.get_text_config(), batch.answer_tokens)
    seen = _images(reader, batch.question).forward
    if batch.plain is not None:
        seen += _images(reader, batch.plain.inputs).forward
        lengths = _lengths(batch.plain.inputs)
        seen += sum(decoder(reader.get_text_config(), length).forward for length in lengths)
    return layers.training(recompute) + rest.training() + seen


def batch_tokens(batch: TrainingBatch) -> int:
    """Tokens that encoder and reader read, padding and memory not counted."""
    return sum(_lengths(batch.items)) + sum(_lengths(batch.question))


def _lengths(inputs: Mapping[str, Tensor]) -> list[int]:
    return inputs["attention_mask"].sum(dim=1).tolist() if inputs else []


def _images(config: Any, inputs: Mapping[str, Tensor], rank: int = 0) -> Flops:
    """The images of some inputs through their model's vision tower."""
    grids = inputs.get("image_grid_thw")
    if grids is None:
        return Flops()
    return sum((vision_tower(config.vision_config, grid, rank) for grid in grids.tolist()), Flops())


# Float32 weight, gradient and AdamW's two moments.
TRAINABLE_BYTES = 16
# Bytes a token and layer keeps per unit of width in half precision, attention matrices aside:
# Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", eq. 2;
# with checkpointing only the layer's input.
KEPT, KEPT_CHECKPOINTED = 34, 2

_SAMPLE = 16  # questions whose lengths are looked at


@dataclass(frozen=True)
class Plan:
    """The numbers of a run that has not started.

    Attributes:
        examples, items: in the data.
        trained_parameters: by part of the encoder.
        questions: that the run takes in all its passes.
        weight_bytes: weights, gradients and AdamW's moments.
        token_bytes: activations kept for each token of a micro-batch of `micro_batch` questions.
        tokens, flops: of one question with its items, by a sample of the data; 0 where it cannot be told.
        tflops: operations a second, in 10¹², that the hours are reckoned with.
        stage: CoMemo's; 0 for a memory encoder. `base_parameters` are then all, trained or not.
    """

    model: str
    examples: int
    items: int
    steps: int
    base_parameters: int
    reader: str
    reader_parameters: int
    trained_parameters: Mapping[str, int]
    precision: str
    weight_bytes: int
    token_bytes: int
    questions: int = 0
    micro_batch: int = 1
    tokens: float = 0.0
    flops: float = 0.0
    tflops: float = PlanOptions.tflops
    stage: int = 0

    @property
    def trainable(self) -> int:
        """How many parameters are trained."""
        return sum(self.trained_parameters.values())

    @property
    def _reader(self) -> str:
        if not self.reader:
            return "the model itself, in the same copy of its weights"
        return f"{self.reader}, {self.reader_parameters / 1e6:,.1f} M frozen weights more"

    def lines(self) -> list[tuple[str, str]]:
        """Label and value, for printing."""
        share = 100 * self.trainable / max(self.base_parameters, 1)
        gigabytes = self.weight_bytes / 2**30
        size, whole = f"{self.base_parameters / 1e6:,.1f} M", "weights" if self.stage else "frozen weights"
        first = [("stage", f"{self.stage} of CoMemo's")] if self.stage else [("reader", self._reader)]
        data = f"{self.examples:,} " + (
            "dialogues" if self.stage else f"questions, {self.items:,} knowledge items"
        )
        return [
            ("model", f"{self.model}, {size} {whole}, {self.precision}"),
            *first,
            ("data", data),
            ("steps", f"{self.steps:,}"),
            *((part, f"{count / 1e6:,.2f} M") for part, count in self.trained_parameters.items()),
            ("trainable", f"{self.trainable / 1e6:,.2f} M = {share:.2f} % of the model"),
            ("memory", f"{gigabytes:,.2f} GiB for weights, gradients and AdamW (estimate)"),
            ("", f"+ {self.token_bytes / 2**20:,.3f} MiB for each token of a micro-batch (estimate)"),
            *self._time(),
            ("checkpoint", f"{self.trainable * 12 / 2**30:,.2f} GiB each"),
        ]

    def _time(self) -> list[tuple[str, str]]:
        """What follows from the lengths in the data."""
        if not self.flops:
            return [("hours", "not known: set data=FILE, of images that can be read")]
        memory = self.weight_bytes + self.micro_batch * self.tokens * self.token_bytes
        hours = self.questions * self.flops / (self.tflops * 1e12) / 3600
        each = "dialogue" if self.stage else "question"
        return [
            ("", f"= {memory / 2**30:,.2f} GiB with {self.micro_batch} {each}s at a time (estimate)"),
            ("work", f"{self.flops / 1e12:,.3g} TFLOP, {self.tokens:,.0f} tokens a {each} (of a sample)"),
            ("hours", f"{hours:,.3g} at {self.tflops:,g} TFLOP/s: an assumption (--tflops), not measured"),
        ]


def make_plan(settings: TrainSettings, options: PlanOptions = PlanOptions()) -> Plan:  # noqa: B008 (frozen)
    """The plan of a run; the model is only built on the meta device, from its config.

    Raises:
        ValueError: a stage of a video memory, whose work is not reckoned; or as `train`, for data and model.
    """
    if settings.encoder == VIDEO:
        raise ValueError(
            "no plan is made for stages of video memories: start with max_steps=3 and look at the seconds"
        )
    found = load_examples(settings.data, settings.knowledge or None) if settings.data else []
    examples = select(found, settings) if found else []
    order = Order(max(len(examples), 1), settings.batch_size, settings.seed, settings.shuffle)
    if settings.comemo.stage:
        return _stage_plan(settings, options, examples, order)
    backbone = meta_backbone(settings.model)
    reader = meta_backbone(settings.reader) if settings.reader else None
    base, apart = _parameters(backbone.model), _parameters(reader.model) if reader else 0
    sizes = _encoder(settings, backbone, reader)
    tokens, flops = _work(settings, examples, backbone, reader, sizes)
    half = use_bf16(settings.precision)
    weight = 0.5 if settings.quantization else 2 if half else 4
    return Plan(
        model=backbone.spec.name,
        examples=len(examples),
        items=sum(min(len(example.items), settings.max_items) for example in examples),
        steps=order.total_steps(settings.epochs, settings.max_steps),
        base_parameters=base,
        reader=reader.spec.name if reader else "",
        reader_parameters=apart,
        trained_parameters=sizes.parameters,
        precision=("4-bit, bf16" if settings.quantization else "bf16" if half else "fp32"),
        weight_bytes=int((base + apart) * weight + sum(sizes.parameters.values()) * TRAINABLE_BYTES),
        token_bytes=_token_bytes(settings, *(each.model for each in (backbone, reader) if each)),
        questions=_questions(order, settings),
        micro_batch=min(settings.micro_batch_size or settings.batch_size, max(len(examples), 1)),
        tokens=tokens,
        flops=flops,
        tflops=options.tflops,
    )


def _token_bytes(settings: TrainSettings, *models: Any) -> int:
    """Bytes of activations that a token keeps for the backward pass, in the larger decoder."""
    text = [model.config.get_text_config() for model in models]
    kept = KEPT_CHECKPOINTED if settings.checkpointing else KEPT
    widths: int = max(config.num_hidden_layers * config.hidden_size for config in text)
    return widths * kept * (1 if use_bf16(settings.precision) else 2)


def _stage_plan(
    settings: TrainSettings, options: PlanOptions, examples: Sequence[TrainingExample], order: Order
) -> Plan:
    """The plan of one of CoMemo's stages."""
    from comem.training.comemo_plan import plan_stage

    spec = resolve_backbone(settings.model)
    given = import_module(spec.adapter).unloaded(spec) if spec.adapter else meta_backbone(settings.model)
    found = plan_stage(settings, given, examples[:: max(1, len(examples) // _SAMPLE)][:_SAMPLE])
    frozen, half = found.parameters - sum(found.trained.values()), use_bf16(settings.precision)
    at_once = settings.micro_batch_size or settings.batch_size
    if settings.comemo.packing and found.tokens:
        at_once = max(1, min(at_once, int(settings.comemo.pack_tokens / found.tokens)))
    return Plan(
        model=given.spec.name, examples=len(examples), items=0,
        steps=order.total_steps(settings.epochs, settings.max_steps),
        base_parameters=found.parameters, reader="", reader_parameters=0, trained_parameters=found.trained,
        precision="bf16" if half else "fp32",
        weight_bytes=frozen * (2 if half else 4) + sum(found.trained.values()) * TRAINABLE_BYTES,
        token_bytes=_token_bytes(settings, given.model), questions=_questions(order, settings),
        micro_batch=at_once if settings.comemo.packing else 1, tokens=found.tokens, flops=found.flops,
        tflops=options.tflops, stage=settings.comemo.stage,
    )  # fmt: skip


def _questions(order: Order, settings: TrainSettings) -> int:
    """How many questions all steps take; the last one of each pass may be smaller."""
    steps = order.total_steps(settings.epochs, settings.max_steps)
    passes, rest = divmod(steps, order.steps_per_epoch)
    return passes * order.count + min(rest * order.batch_size, order.count)


def _work(
    settings: TrainSettings,
    examples: Sequence[TrainingExample],
    backbone: HFBackbone,
    reader: HFBackbone | None,
    sizes: EncoderPlan,
) -> tuple[float, float]:
    """Tokens and operations of a question, by some of the data; zeros where nothing of it can be read."""
    sample = examples[:: max(1, len(examples) // _SAMPLE)][:_SAMPLE]
    answering = reader or backbone
    form = knowledge_format(settings, backbone, reader)
    batch = build_collator(settings, backbone, form, reader)(sample) if sample else None
    if batch is None or not batch.ids:
        return 0.0, 0.0
    configs = backbone.model.config, answering.model.config
    flops = batch_flops(batch, *configs, sizes, settings.lora.rank, settings.checkpointing)
    return batch_tokens(batch) / len(batch.ids), flops / len(batch.ids)


def meta_backbone(name: str) -> HFBackbone:
    """A backbone whose model has no weights."""
    spec = resolve_backbone(name)
    return HFBackbone(spec, on_meta(spec), load_processor(spec.source, spec.processor_class))


def on_meta(spec: BackboneSpec) -> Any:
    """The model without its weights."""
    import transformers

    config = load_model_config(spec.source)
    with torch.device("meta"):
        return getattr(transformers, spec.model_class).from_config(config)


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _encoder(settings: TrainSettings, backbone: HFBackbone, reader: HFBackbone | None) -> EncoderPlan:
    """What would be trained.

    Raises:
        ValueError: the kind of encoder is not one that says so in advance.
    """
    plan = ENCODERS[settings.encoder].plan
    if plan is None:
        raise ValueError(f"encoder={settings.encoder}: this kind has no plan; train without --dry-run")
    return plan(
        backbone, lora=settings.lora, qformer=settings.qformer, elastic=settings.elastic,
        reader=reader.model if reader else None,
    )  # fmt: skip


def show_train(result: TrainResult | Plan, settings: TrainSettings) -> None:
    """Print where a run lies, or what it would be; of several processes the main one does."""
    if state().is_main_process:
        print_facts(result.lines())
