"""CoMemo's three stages with the trainer of the memories (docs/comemo.md; reference/comemo.md 7).

1 trains projector, blocks and gates, 2 the same with the gates frozen, 3 everything, or LoRA on decoder and
vision tower. Dialogues are packed into rows, each as if it came alone: its own positions from 0, its own
images on the memory path, attention within it. A checkpoint holds what is trained; the next stage starts
from it (`init`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from comem.backbones.base import Answer, Conversations
from comem.backbones.chatml import IGNORED, answer_labels
from comem.backbones.comemo import (
    SECTION,
    CoMemo,
    CoMemoBackbone,
    CoMemoConfig,
    CoMemoProcessor,
    backbone,
)
from comem.backbones.hf import HFBackbone, load_backbone
from comem.backbones.media import BlockSizes, MediaBlocks, every
from comem.backbones.positions import decoder_layers
from comem.backbones.prepared import Prepared, Segments
from comem.io.files import read_json, write_json
from comem.memory.bank import read_tensors, write_tensors
from comem.memory.checkpointing import enable_checkpointing
from comem.memory.lora import adapters_on, add_lora, fold_lora, load_lora_state, lora_layers, lora_state
from comem.training.data import TrainingExample
from comem.training.model import summed_cross_entropy
from comem.training.settings import TrainSettings
from comem.types import ImageRef

logger = logging.getLogger(__name__)

#: Files of a checkpoint: projector and blocks; LoRA; or the rest of the model.
TRAINED, ADAPTER, WHOLE, ABOUT = (
    "comemo.safetensors",
    "adapter.safetensors",
    "whole.safetensors",
    "comemo.json",
)
_PROJECTOR = "model.multi_modal_projector."
Sample = dict[str, Tensor]


@dataclass(frozen=True)
class CoMemoBatch:
    """Dialogues that go through the model at once.

    Attributes:
        ids: of the dialogues.
        samples: each one's inputs, one row without padding, `labels` and `weights` `(1, l)` among them.
        skipped: what could not be read, one message each.
        vectors: of no use here.
    """

    ids: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: tuple[str, ...] = ()
    vectors: int = 0

    @property
    def rows(self) -> tuple[Sample, ...]:
        """The dialogues."""
        return self.samples

    @property
    def answer_tokens(self) -> int:
        """How many tokens the loss is taken over."""
        return sum(int((sample["labels"][:, 1:] != IGNORED).sum()) for sample in self.samples)

    @property
    def answer_weight(self) -> float:
        """What they count together."""
        return sum(float(sample["weights"][:, 1:].sum()) for sample in self.samples)

    def to(self, device: torch.device | str) -> CoMemoBatch:
        """The batch on another device."""
        moved = tuple({name: t.to(device) for name, t in sample.items()} for sample in self.samples)
        return replace(self, samples=moved)


@dataclass(frozen=True)
class CoMemoCollator:
    """Makes `CoMemoBatch`es of examples.

    Attributes:
        process: renders dialogues (`CoMemoBackbone.process`).
        settings: tiles, weights, packs.
        max_tokens: longest dialogue.
        opening: turns before each dialogue.
    """

    process: Any
    settings: Any
    max_tokens: int
    opening: tuple[Any, ...] = field(default=())

    def __call__(self, examples: Sequence[TrainingExample]) -> CoMemoBatch:
        """All of them in one batch."""
        samples, skipped = self._samples(examples)
        return CoMemoBatch(tuple(samples), tuple(samples.values()), skipped)

    def batches(self, examples: Sequence[TrainingExample]) -> list[CoMemoBatch]:
        """As few batches as the limits of a pack allow, in the examples' order."""
        samples, skipped = self._samples(examples)
        packs: list[dict[str, Sample]] = [{}]
        tokens = tiles = 0
        for name, sample in samples.items():
            more, shown = sample["input_ids"].shape[1], len(sample.get("pixel_values", ()))
            full = tokens + more > self.settings.pack_tokens or tiles + shown > self.settings.pack_tiles
            if packs[-1] and full:
                packs.append({})
                tokens = tiles = 0
            packs[-1][name] = sample
            tokens, tiles = tokens + more, tiles + shown
        found = [CoMemoBatch(tuple(pack), tuple(pack.values())) for pack in packs]
        found[0] = replace(found[0], skipped=skipped)
        return found

    def _samples(self, examples: Sequence[TrainingExample]) -> tuple[dict[str, Sample], tuple[str, ...]]:
        """The inputs of each dialogue by its id, and what could not be read."""
        samples, skipped = dict[str, Sample](), list[str]()
        for example in examples:
            try:
                samples[example.id] = self._sample(example)
            except ValueError as error:
                skipped.append(f"question {example.id}: {error}")
        return samples, tuple(skipped)

    def _sample(self, example: TrainingExample) -> Sample:
        images = sum(isinstance(part, ImageRef) for m in example.messages() for part in m.content)
        chat = [*self.opening, *example.messages()]
        most = self.settings.max_tiles // images if images else 0
        inputs = self._tiled(max(most, min(1, self.settings.max_tiles)))([chat], add_generation_prompt=False)
        if inputs["input_ids"].shape[1] > self.max_tokens:
            raise ValueError(
                f"the example {example.id!r} has {inputs['input_ids'].shape[1]} tokens, above max_tokens="
                f"{self.max_tokens}; shorten it, set comemo.max_tiles lower, or raise max_tokens"
            )
        labels = answer_labels(inputs["input_ids"], self.process.tokenizer)
        learned = labels != IGNORED
        count = max(int(learned.sum()), 1)
        each = {"token": 1.0, "sample": 1.0 / count, "square": count**-0.5}[self.settings.loss_weight]
        return {**inputs, "labels": labels, "weights": learned.float() * each}

    def _tiled(self, most: int) -> Any:
        """The processor with so many tiles an image at most."""
        processor = self.process.processor
        config = replace(processor.config, max_tiles=most)
        return replace(self.process, processor=replace(processor, config=config))


class CoMemoPart:
    """What of a CoMemo is trained, saved and taken up again; stands where a memory's encoder does.

    Args:
        comemo: the model.
        settings: of the run.
        base: what the run's model is, as it was named.
    """

    def __init__(self, comemo: CoMemo, settings: TrainSettings, base: str) -> None:
        self.comemo, self.settings, self.base = comemo, settings, base
        self.prepared = Prepared(comemo.model, packs=True)

    def trained_state(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by file."""
        own = self.comemo.model.state_dict()
        first = {f"model.{name}": value for name, value in own.items() if name.startswith(_PROJECTOR)}
        first |= {f"blocks.{name}": value for name, value in self.comemo.blocks.state_dict().items()}
        found = {TRAINED: first}
        if lora_layers(self.comemo.model):
            found[ADAPTER] = lora_state(self.comemo.model)
        elif self.settings.comemo.stage == 3:
            found[WHOLE] = {name: value for name, value in own.items() if not name.startswith(_PROJECTOR)}
        return found

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint's files into a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, tensors in self.trained_state().items():
            write_tensors(Path(folder) / name, tensors)
        about = {"stage": self.settings.comemo.stage, "base": self.base, SECTION: asdict(self.comemo.config)}
        write_json(Path(folder) / ABOUT, about)

    @torch.no_grad()
    def load(self, folder: Path, resume: bool) -> None:
        """Take over a checkpoint of this run, or of an earlier stage.

        Raises:
            ValueError: no such checkpoint, of other sizes, or one whose LoRA would be lost.
        """
        if not (folder / ABOUT).is_file():
            raise ValueError(
                f"{folder} is no checkpoint of CoMemo: give RUN/checkpoints/step-… of the stage before, or "
                "merge a run (comem merge) and give its folder as `model`"
            )
        about = read_json(folder / ABOUT)
        sizes = BlockSizes(**about[SECTION]["blocks"])
        if sizes != self.comemo.blocks.sizes:
            raise ValueError(f"{folder}: blocks of {sizes}, the model's are {self.comemo.blocks.sizes}")
        if not resume and (folder / ADAPTER).is_file():
            raise ValueError(
                f"{folder} holds LoRA: merge its run first (comem merge), and train from that folder"
            )
        own = {f"model.{n}": t for n, t in self.comemo.model.state_dict().items()}
        own |= {f"blocks.{n}": t for n, t in self.comemo.blocks.state_dict().items()}
        given = read_tensors(folder / TRAINED)
        if (folder / WHOLE).is_file():
            given |= {f"model.{name}": value for name, value in read_tensors(folder / WHOLE).items()}
        for name, value in given.items():
            if name not in own or own[name].shape != value.shape:
                raise ValueError(f"{folder}: {name} {tuple(value.shape)} does not fit the model {self.base}")
            own[name].copy_(value)
        if (folder / ADAPTER).is_file():
            load_lora_state(self.comemo.model, read_tensors(folder / ADAPTER), str(folder / ADAPTER))


class CoMemoTrainingModel(nn.Module):
    """Weighted cross-entropy of the answers, images on both paths.

    Args:
        comemo: the model; what needs gradients is trained.
        part: how it is saved.
        settings: of the run.
    """

    def __init__(self, comemo: CoMemo, part: CoMemoPart, settings: TrainSettings) -> None:
        super().__init__()
        self.comemo, self.settings = comemo, settings
        self.encoder, self.prepared = part, part.prepared
        self._warned = False

    def forward(self, batch: CoMemoBatch) -> tuple[Tensor, Tensor]:
        """The summed, weighted loss and the weights' sum."""
        if self.settings.comemo.packing and self.prepared.packs:
            hidden, targets, weights = self.answer_states(batch.samples)
        else:
            parts = [self.answer_states([sample]) for sample in batch.samples]
            hidden, targets, weights = (torch.cat([part[n] for part in parts]) for n in range(3))
        head = self.comemo.model.get_output_embeddings()
        loss = summed_cross_entropy(head, hidden, targets, self.settings.loss_chunk, weights)
        if self.training and not loss.requires_grad:  # words alone, which no block reads
            loss = loss + sum(p.sum() * 0.0 for p in self.comemo.parameters() if p.requires_grad)
        return loss, weights.sum()

    def answer_states(self, samples: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """What predicts the answers' tokens `(a, d)`, these tokens, and what each counts."""
        with (
            self.prepared,
            adapters_on(self.comemo.model),
            self.comemo.attach_packed(samples) as (ready, lengths),
        ):
            if self.prepared.packs:  # else there is one sample
                ready["segments"] = Segments.of(lengths, ready["inputs_embeds"].device)
            (hidden,) = self.comemo.model.base_model(**ready, use_cache=False).last_hidden_state
        labels = torch.cat([sample["labels"][0] for sample in samples])
        weights = torch.cat([sample["weights"][0] for sample in samples])
        learned = labels[1:] != IGNORED  # a dialogue's first token is never learned
        return hidden[:-1][learned], labels[1:][learned], weights[1:][learned]

    def figures(self) -> dict[str, float]:
        """|tanh| of each gate, and their means; says so once the memory path takes over."""
        gates = self.comemo.blocks.gates()
        means = {}
        for kind in ("attn_gate", "ff_gate"):
            values = [value for name, value in gates.items() if name.startswith(kind)]
            means[f"gate/{kind}"] = sum(values) / len(values)
        if not self._warned and self.settings.comemo.stage < 3 and self._takes_over(means["gate/attn_gate"]):
            self._warned = True
            logger.warning(
                "the memory path takes over: mean |tanh attn_gate| %.2f with a frozen decoder, above "
                "comemo.gate_warning=%.2f; go on with stage 2 (gates frozen) from an earlier checkpoint",
                means["gate/attn_gate"], self.settings.comemo.gate_warning,
            )  # fmt: skip
        return means | {f"gate/{name}": value for name, value in gates.items()}

    def _takes_over(self, mean: float) -> bool:
        return mean > self.settings.comemo.gate_warning

    def answers(self, backbone: Any, chats: Conversations, batch: CoMemoBatch) -> list[Answer]:
        """What the model answers to dialogues whose last answers are left out."""
        with adapters_on(self.comemo.model):
            return cast(CoMemoBackbone, backbone).generate(chats)


@dataclass(frozen=True)
class CoMemoRun:
    """What the trainer needs of a CoMemo run."""

    model: CoMemoTrainingModel
    collator: CoMemoCollator
    backbone: CoMemoBackbone


def build_run(
    settings: TrainSettings, load: Callable[[str], HFBackbone], resume: Path | None = None
) -> CoMemoRun:
    """The model of a stage, with the weights of the checkpoint, or of `init`.

    Args:
        settings: of the run.
        load: opens the base by its name.
        resume: the checkpoint to go on from.

    Raises:
        ValueError: a model without image tokens, or a checkpoint that does not fit.
    """
    asked = settings.comemo
    given = with_blocks(load(settings.model), settings)
    given = given.using(positions=asked.positions) if asked.positions else given
    comemo = given.comemo
    comemo.image_path = asked.image_path
    if asked.stage == 3 and asked.whole == "lora":
        torch.manual_seed(settings.seed)
        add_lora(comemo.model, settings.lora)
    unfreeze(comemo, settings)
    part = CoMemoPart(comemo, settings, settings.model)
    source = resume or (Path(settings.init) if settings.init else None)
    if source is not None:
        part.load(source, resume is not None)
    comemo.blocks.checkpointing = settings.checkpointing
    if settings.checkpointing:
        enable_checkpointing(comemo.model)
    return CoMemoRun(CoMemoTrainingModel(comemo, part, settings), collator_for(settings, given), given)


def collator_for(settings: TrainSettings, given: CoMemoBackbone) -> CoMemoCollator:
    """The collator of a run."""
    longest = int(given.model.config.get_text_config().max_position_embeddings)
    return CoMemoCollator(given.process, settings.comemo, min(settings.max_tokens, longest))


def with_blocks(given: HFBackbone, settings: TrainSettings) -> CoMemoBackbone:
    """The backbone itself, if it is a CoMemo; else an InternVL one with fresh blocks, drawn by the seed.

    Raises:
        ValueError: its tokenizer has no image token.
    """
    if isinstance(given, CoMemoBackbone):
        return given
    asked, model = settings.comemo, given.model
    tokenizer = given.process.tokenizer
    if not hasattr(model.config, "image_token_id") or "<IMG_CONTEXT>" not in tokenizer.get_vocab():
        raise ValueError(
            f"{settings.model}: no InternVL model, so no CoMemo can be made of it; give one, or a CoMemo"
        )
    width = int(model.get_decoder().config.hidden_size)
    layers = every(asked.every, len(decoder_layers(model)))
    sizes = BlockSizes(width, asked.heads, asked.head_dim, asked.intermediate or 2 * width, layers)
    torch.manual_seed(settings.seed)
    with torch.device("cpu" if given.device.type != "meta" else "meta"):
        blocks = MediaBlocks(sizes)
    blocks.start(width**-0.5)
    return backbone(
        given.spec, CoMemo(model, blocks.to(model.dtype), CoMemoConfig(sizes)), tokenizer, given.device
    )


def unfreeze(comemo: CoMemo, settings: TrainSettings) -> None:
    """What the stage trains needs gradients, in float32; steps of 4e-5 vanish in bf16."""
    last = settings.comemo.stage == 3
    for name, parameter in comemo.named_parameters():
        gate = name.endswith("_gate")
        memory = name.startswith("blocks.") or _PROJECTOR in name
        trains = ".lora_" in name or (memory and not (gate and settings.comemo.stage == 2))
        trains = trains or (last and settings.comemo.whole == "full")
        parameter.requires_grad_(trains)
        if trains:
            parameter.data = parameter.data.float()


def merged(checkpoint: Path, settings: TrainSettings, dtype: str, out: Path) -> CoMemo:
    """Write the CoMemo folder that a run has trained; `load_backbone` opens it."""
    asked = replace(settings, init="", precision="fp32")
    run = build_run(asked, lambda name: load_backbone(name, device="cpu", dtype="float32"), checkpoint)
    comemo = run.model.comemo
    if lora_layers(comemo.model):
        fold_lora(comemo.model)
    comemo.requires_grad_(False).to(torch.float32 if dtype == "auto" else getattr(torch, dtype))
    comemo.save(out, cast(CoMemoProcessor, run.backbone.processor))
    return comemo
