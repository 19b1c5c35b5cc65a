"""The settings of `train` (what `configs/train/*.yaml` and `key=value` can set) and `merge`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from comem.config import DryRun, option, take_paths
from comem.memory.settings import CrossSettings, LoraSettings, QFormerSettings
from comem.memory.video.settings import Tune, VideoMemorySettings

_MAY_BE_OFF = ("save_every", "eval_every", "workers")


@dataclass(frozen=True)
class OptimSettings:
    """AdamW and its schedule; the defaults are the paper's (authors_code.md 2).

    Attributes:
        lr: peak learning rate.
        lora_lr: of LoRA, in place of `lr`.
        qformer_lr: of the Q-Former, in place of `lr`.
        latents_lr: of the Q-Former's queries, in place of `lr`.
        injection_lr: of an injection's own weights (`cross`), in place of `lr`.
        reader_lr: of a language model that is trained in full beside a video memory, in place of `lr`.
        weight_decay: of matrices; norms, biases, scales and queries do not decay.
        beta1: decay of AdamW's first moment.
        beta2: decay of its second moment.
        eps: of AdamW's denominator.
        clip: largest norm of the whole gradient.
        warmup: fraction of the run in which the rate rises from zero.
        schedule: how it falls after that, to zero; "constant" does not, "wsd" does over the last fifth alone.
        muon_lr: > 0 has Muon instead of AdamW change the compressor's matrices, with this peak rate: its
            steps have the same size in all directions, which starts a small compressor sooner.
    """

    lr: float = 5e-5
    lora_lr: float | None = None
    qformer_lr: float | None = None
    latents_lr: float | None = None
    injection_lr: float | None = None
    reader_lr: float | None = None
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 3.0
    warmup: float = 0.03
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    muon_lr: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"optim.warmup={self.warmup}: give a fraction of the run in [0, 1), e.g. 0.03")
        if self.schedule not in ("cosine", "linear", "constant", "wsd"):
            raise ValueError(f"optim.schedule={self.schedule!r}; known: cosine, linear, constant, wsd")
        if self.muon_lr < 0:
            raise ValueError(f"optim.muon_lr={self.muon_lr}: give 0 (off) or a rate, e.g. 0.01")
        if self.clip <= 0:
            raise ValueError(f"optim.clip={self.clip}: give a positive norm (a huge one switches it off)")


@dataclass(frozen=True)
class ComemoSettings:
    """CoMemo's training in three stages; `model` is then a CoMemo folder, or an InternVL one.

    Attributes:
        stage: 1 trains projector, blocks and gates; 2 projector and blocks, gates frozen; 3 everything. 0
            trains no CoMemo: a memory encoder, as the paper does.
        whole: how stage 3 trains decoder and vision tower: all weights, or LoRA (`lora`) on them.
        loss_weight: what a token counts: each the same ("token"), each dialogue the same ("sample"), or a
            dialogue as the root of its tokens ("square").
        packing: several dialogues in one row, each as if it came alone.
        pack_tokens: of a row, at most.
        pack_tiles: the same, of images.
        max_tiles: of a dialogue's images together, thumbnails not counted; 0 gives each image one.
        positions: how ids are counted; empty as the model says.
        image_path: "both"; "context" or "memory" leave the other out, for experiments.
        gate_warning: warn once the blocks' mean |tanh attn_gate| exceeds this while the decoder is frozen.
        every: blocks of an InternVL model that has none: before each layer whose number is a multiple.
        heads: of such blocks.
        head_dim: width of their heads.
        intermediate: width of their feed-forward layers; 0 for twice the decoder's.
    """

    stage: Literal[0, 1, 2, 3] = 0
    whole: Literal["full", "lora"] = "full"
    loss_weight: Literal["token", "sample", "square"] = "square"
    packing: bool = True
    pack_tokens: int = 16384
    pack_tiles: int = 48
    max_tiles: int = 12
    positions: Literal["", "dhr", "dhr_released", "plain"] = ""
    image_path: Literal["both", "context", "memory"] = "both"
    gate_warning: float = 0.9
    every: int = 4
    heads: int = 16
    head_dim: int = 128
    intermediate: int = 0

    def __post_init__(self) -> None:
        if self.stage not in (0, 1, 2, 3):
            raise ValueError(f"comemo.stage={self.stage}: give 1, 2 or 3; 0 trains a memory encoder")
        for name in ("pack_tokens", "pack_tiles", "every", "heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"comemo.{name}={getattr(self, name)}: give at least 1")
        if self.max_tiles < 0 or self.intermediate < 0:
            raise ValueError("comemo.max_tiles and comemo.intermediate: give 0 or more")


#: By staging and stage what is trained, and how often a clip is read without frames (video_memory.md 2).
_STAGINGS: dict[str, tuple[tuple[Tune, float], tuple[Tune, float]]] = {
    "readme": (("memory", 0.5), ("full", 0.0)),
    "scripts": (("full", 0.5), ("full", 0.0)),
}


@dataclass(frozen=True)
class VideoStageSettings:
    """Training of a video memory (`encoder=video_memory`) on files as LLaVA-Video-178K has them.

    Attributes:
        staging: "readme" trains the memory first and everything then, as the authors' page says; "scripts"
            trains memory and language model in both stages, as their scripts do.
        stage: 1 on short clips, every other step without frames; 2 on long ones.
        tune: "memory", "lora" (on the language model, `lora`) or "full", in place of what the stage trains.
        frame_dropout: how often the memory is read without frames; None: `video.frame_dropout`, or where
            that is 0, 0.5 in the first stage.
        videos: the folder of the video files; empty: each list's own.
        all_marks: learn line breaks and turns' marks in questions, too, as LLaVA-NeXT does.
    """

    staging: Literal["readme", "scripts"] = "readme"
    stage: Literal[1, 2] = 1
    tune: Literal["", "memory", "lora", "full"] = ""
    frame_dropout: float | None = None
    videos: str = ""
    all_marks: bool = False

    def __post_init__(self) -> None:
        if self.staging not in _STAGINGS:
            raise ValueError(f"video_stage.staging={self.staging!r}; known: {', '.join(_STAGINGS)}")
        if self.stage not in (1, 2):
            raise ValueError(f"video_stage.stage={self.stage}: give 1 (short clips) or 2 (long ones)")
        if self.tune not in ("", "memory", "lora", "full"):
            raise ValueError(f"video_stage.tune={self.tune!r}; known: memory, lora, full")

    @property
    def trains(self) -> Tune:
        """What is trained."""
        return self.tune or _STAGINGS[self.staging][self.stage - 1][0]

    def drops(self, video: VideoMemorySettings) -> float:
        """How often frames are left out of a memory of these settings."""
        if self.frame_dropout is not None:
            return self.frame_dropout
        return video.frame_dropout or _STAGINGS[self.staging][self.stage - 1][1]


@dataclass(frozen=True)
class TrainSettings:
    """One training run, complete.

    Attributes:
        model: a row of BACKBONES, a hub id, a local model folder, or "toy" (the embedded one).
        reader: another model that answers, named like `model`: of another size, or another checkpoint.
            The Q-Former then projects to its width. Empty: the model itself, in one copy of its weights.
        init: an adapter folder to start from instead of fresh LoRA and Q-Former weights.
        data: JSONL file of questions (docs/training_data.md describes the record); of a video memory a JSON
            list of LLaVA-Video-178K, or a YAML mixture of such lists.
        knowledge: JSONL (or WIT TSV) file in which `knowledge_ids` are looked up.
        output: the run folder.
        data_fraction: the part of the questions that is trained on, drawn by `seed`; smaller parts lie within
            larger ones. More than all of them takes more data (comem data build).
        leave_out_languages: codes of the languages whose questions are left out.
        seed: of fresh weights, the order of the questions, dropout, and whatever else is drawn.
        max_items: knowledge items per question, best first; the paper trains with 3.
        max_tokens: longest question with answer, in tokens, memory not counted.
        batch_size: questions per optimizer step, over all processes.
        micro_batch_size: questions per forward pass; 0 means all of the process's share at once.
        shuffle: draw the examples in a new order in each pass; false takes them as the file has them.
        epochs: passes over the data.
        max_steps: at most so many optimizer steps; 0 for no limit.
        max_seconds: > 0 trains at most that long, the schedule following the clock; such a run
            depends on the machine's speed and is not reproducible to the bit.
        precision: "auto" is bf16 on a GPU that has it, else fp32.
        checkpointing: recompute activations in the backward pass (less memory, more time).
        encoder: the kind of encoder, a row of ENCODERS.
        injection: how memories reach the reader, a row of INJECTIONS.
        question_picture: "memory" has the encoder read the question's own image, too, whose memory follows
            the items'; "none" leaves it to the reader; "auto" is "memory" for a reader that sees no images.
        attn: attention of the base: "sdpa", "flash_attention_2" (needs flash-attn) or "eager"; empty is sdpa.
        liger: Liger's kernels (needs liger-kernel and a GPU); false is torch's own.
        loss_chunk: answer tokens whose logits exist at a time, the rest recomputed; 0 is all at once.
        quantization: "4bit" holds the frozen base in NF4 (QLoRA, for cards of 24 GB; needs bitsandbytes).
        min_pixels: of the knowledge images, which are enlarged to it; None is the encoder's default.
        max_pixels: of the knowledge images, which are made smaller; None is the encoder's default.
        max_tiles: most tiles that they are cut into, for models that cut images (InternVL, LFM2-VL).
        max_side: length of their longer side, for models that resize by it (SmolVLM, Pixtral).
        workers: processes that read and prepare batches ahead; 0 prepares them in the training process.
        save_every: steps between checkpoints (0: only at the end). SIGUSR1, or a file `save_now` touched in
            the run folder, saves after the current step.
        keep_last: checkpoints that stay, the newest ones; the best one stays, too.
        log_every: steps between two reports to the trackers; metrics.jsonl has every step.
        eval_data: JSONL file for the evaluation: loss and generated answers.
        eval_every: steps between evaluations (0: only at the end).
        eval_examples: so many records of `eval_data`, the first ones.
        tensorboard: event files in the run folder; None is true where the package is installed.
        trackers: where the numbers go, too: tensorboard, wandb, trackio, swanlab (accelerate's trackers; each
            needs its package). WANDB_PROJECT, TRACKIO_PROJECT or SWANLAB_PROJECT names the project (comem).
        wandb: the same as `trackers=[wandb]`.
        lora: LoRA on the encoder.
        qformer: the Q-Former.
        cross: blocks of the injection `cross`.
        comemo: CoMemo's stages.
        video: sizes of a video memory (`encoder=video_memory`).
        video_stage: what of it is trained, and on which videos.
        optim: AdamW and its schedule.
        elastic: numbers of embeddings of which each is to be a usable memory, e.g. [1, 2, 4, 8]: each
            question of a step draws how many of an item's embeddings it gets, the first ones.
        vectors: stages of how many vectors an item has, for an encoder that writes any number: each is
            "STEP:COUNT" from a step on, or "STEP:8|16" for one drawn in each step. Few are learned sooner by
            way of many (docs/pretrained_readers.md). Empty: `qformer.num_queries`, always.
        wording_weight: what a token of an answer counts beside those of its `value`, where a record has one.
        system: what the reader is told before each dialogue; empty leaves it to its chat template.
        wrong_items: share of the questions that get items of other questions instead of their own; they
            learn what the reader says without any, and not the answer, which nothing tells them.
    """

    model: str = "toy"
    reader: str = ""
    init: str = ""
    data: str = ""
    knowledge: str = ""
    output: str = "runs/train"
    data_fraction: float = 1.0
    leave_out_languages: tuple[str, ...] = ()
    seed: int = 0
    max_items: int = 3
    max_tokens: int = 32768
    batch_size: int = 16
    micro_batch_size: int = 0
    shuffle: bool = True
    epochs: float = 1.0
    max_steps: int = 0
    max_seconds: float = 0.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpointing: bool = False
    encoder: str = option("qformer", metavar="NAME")
    injection: str = option("prefix", metavar="NAME")
    question_picture: Literal["auto", "memory", "none"] = "auto"
    attn: Literal["", "sdpa", "flash_attention_2", "eager"] = ""
    liger: bool = False
    loss_chunk: int = 0
    quantization: Literal["", "4bit"] = ""
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_tiles: int | None = None
    max_side: int | None = None
    workers: int = 0
    save_every: int = 800
    keep_last: int = 3
    log_every: int = 10
    eval_data: str = ""
    eval_every: int = 0
    eval_examples: int = 100
    tensorboard: bool | None = None
    trackers: tuple[Literal["tensorboard", "wandb", "trackio", "swanlab"], ...] = ()
    wandb: bool = False
    lora: LoraSettings = field(default_factory=LoraSettings)
    qformer: QFormerSettings = field(default_factory=QFormerSettings)
    cross: CrossSettings = field(default_factory=CrossSettings)
    comemo: ComemoSettings = field(default_factory=ComemoSettings)
    video: VideoMemorySettings = field(default_factory=VideoMemorySettings)
    video_stage: VideoStageSettings = field(default_factory=VideoStageSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    elastic: tuple[int, ...] = ()
    vectors: tuple[str, ...] = ()
    wording_weight: float = 1.0
    system: str = ""
    wrong_items: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_items", "max_tokens", "batch_size", "keep_last", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")
        for name in ("micro_batch_size", "max_steps", "max_seconds", "loss_chunk", *_MAY_BE_OFF):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 (off) or a positive number")
        if not 0 < self.data_fraction <= 1:
            raise ValueError(
                f"data_fraction={self.data_fraction}: give a number above 0, at most 1; for more "
                "data than there is, synthesise it (comem data build with larger targets)"
            )
        if self.epochs <= 0:
            raise ValueError(f"epochs={self.epochs}: give a positive number")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision={self.precision!r}; known: auto, bf16, fp32")
        if self.question_picture not in ("auto", "memory", "none"):
            raise ValueError(f"question_picture={self.question_picture!r}; known: auto, memory, none")
        self._check_lessons()

    def _check_lessons(self) -> None:
        """What is past the paper fits the sizes."""
        queries = self.qformer.num_queries
        if any(not 1 <= count <= queries for count in self.elastic):
            raise ValueError(f"elastic={list(self.elastic)}: give numbers from 1 to {queries} (queries)")
        for stage in self.vectors:
            if not re.fullmatch(r"\d+:[1-9]\d*(\|[1-9]\d*)*", stage):
                raise ValueError(f"vectors: {stage!r} is no stage; give STEP:COUNT, e.g. 0:32, or STEP:8|16")
        if not 0 <= self.wording_weight <= 1:
            raise ValueError(f"wording_weight={self.wording_weight}: give a weight from 0 to 1")
        if self.wording_weight < 1 and self.wrong_items:
            raise ValueError("wording_weight and wrong_items do not go together: set one of them back")
        if not 0 <= self.wrong_items <= 1:
            raise ValueError(f"wrong_items={self.wrong_items}: give a share of the questions, from 0 to 1")


# Keys that may change between the parts of a resumed run: none of them touches a weight.
FREE_KEYS = frozenset(
    {"output", "workers", "save_every", "keep_last", "log_every", "tensorboard", "trackers", "wandb"}
)


@dataclass(frozen=True)
class PlanOptions(DryRun):
    """Looking at a training run before it starts.

    Attributes:
        dry_run: print the plan: parameters, memory, hours.
        tflops: 10¹² operations a second, for the hours of --dry-run: an assumption, about 40 % of what an
            H100's bf16 products reach.
    """

    tflops: float = 300.0


@dataclass(frozen=True)
class MergeSettings:
    """From a run folder to an encoder folder.

    The run's best checkpoint is taken if it was evaluated, else its last one. Folding is exact to 1e-5 in
    float32 only; in bf16 the sum is rounded. A run on a 4-bit base gives bf16.

    Attributes:
        run: run folder of comem train, or one of its checkpoints.
        out: folder to write; new or empty.
        adapter: keep LoRA and Q-Former as a small adapter beside the base model, instead of folding.
        dtype: of the merged weights; auto: as the base is stored.
    """

    run: Path = option(positional=True)
    out: Path = option(positional=True)
    adapter: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def __post_init__(self) -> None:
        take_paths(self)
