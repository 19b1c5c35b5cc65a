"""The video memory as a kind of encoder, on the frozen model that reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, device, nn

from comem.backbones.base import Backbone
from comem.backbones.prepared import Prepared, evaluating
from comem.io.video import Picked, Rule, pick
from comem.memory.bank import MemoryBank, read_tensors, write_tensors
from comem.memory.encoder import (
    CONFIG,
    EncoderKind,
    InputsOf,
    MemoryEncoder,
    add_tensors,
    base_digest,
    hidden_size,
    read_about,
    weights_version,
    write_about,
)
from comem.memory.lora import LoraSettings, add_lora, fold_lora, load_lora_state, lora_state
from comem.memory.video.eye import CHUNK, Eye, eye_of, look
from comem.memory.video.recurrent import EMPTY, MemoryState, VideoMemory
from comem.memory.video.sampling import memory_frames, shown_frames
from comem.memory.video.settings import Read, Tune, VideoMemorySettings
from comem.types import KnowledgeItem, VideoRef

MEMORY, ADAPTER, READER = "memory.safetensors", "adapter.safetensors", "reader.safetensors"


@dataclass(frozen=True)
class Headers:
    """Token ids of the words in front of the memory, in front of the frames, and of what ends each part.

    Attributes:
        memory: of the memory's header.
        frames: of the frames' header.
        newline: what ends a part, where the model has no vector of its own for it.
    """

    memory: tuple[int, ...]
    frames: tuple[int, ...]
    newline: tuple[int, ...] = ()


def headers_of(settings: VideoMemorySettings, tokenizer: Any) -> Headers:
    """The settings' words as the tokenizer writes them."""
    ids = [
        tuple(tokenizer(words, add_special_tokens=False)["input_ids"]) if words else ()
        for words in (settings.memory_header, settings.frames_header, "\n")
    ]
    return Headers(*ids)


@dataclass(frozen=True)
class VideoInputs:
    """From videos to what a memory is computed of; without weights, so that data workers can hold it.

    Attributes:
        eye: makes pixels of frames.
        settings: which frames are read, and how their time is counted.
    """

    eye: Eye
    settings: VideoMemorySettings

    @property
    def rule(self) -> Rule:
        """How frames of a file are loaded."""
        return Rule(self.settings.sampling, self.settings.max_frames)

    def index(self, picked: Picked, rows: Tensor) -> Tensor:
        """What the temporal code counts of the loaded frames `rows`: their numbers, or their seconds."""
        if self.settings.time == "frames":
            return rows
        return torch.tensor(picked.times, dtype=torch.float64)[rows]

    def pixels(self, picked: Picked) -> Iterator[Tensor]:
        """The loaded frames as the eye takes them, a chunk at a time."""
        frames = picked.frames()
        while part := list(islice(frames, CHUNK)):
            yield self.eye.pixels(torch.stack([torch.as_tensor(frame) for frame in part]))

    def inputs(self, videos: Sequence[VideoRef]) -> dict[str, Tensor]:
        """Pixels of all videos one after another, the index of each frame, and each video's frames.

        Raises:
            VideoError: a video that cannot be read; names it.
        """
        pixels, index, counts = [], [], []
        for video in videos:
            picked = pick(video, self.rule)
            rows = memory_frames(len(picked), self.settings.segment, self.settings.fill)
            pixels.append(torch.cat(list(self.pixels(picked)))[rows])
            index.append(self.index(picked, rows).double())
            counts.append(len(rows))
        return {"pixels": torch.cat(pixels), "index": torch.cat(index), "counts": torch.tensor(counts)}


class VideoReader(nn.Module):
    """A frozen model, its memory of videos, and the words around it: what every use of the memory shares.

    Args:
        model: sees the frames and reads the memory.
        eye: the model's.
        memory: of the model's width, and of the eye's grid.
        headers: the words around memory and frames.
    """

    def __init__(self, model: Any, eye: Eye, memory: VideoMemory, headers: Headers) -> None:
        super().__init__()
        if eye.grid != memory.grid:
            raise ValueError(f"the memory is for frames of {memory.grid} patches, the model makes {eye.grid}")
        self.model, self.eye, self.memory, self.headers = model, eye, memory, headers

    @property
    def settings(self) -> VideoMemorySettings:
        """The memory's."""
        return self.memory.settings

    def timed(self, pixels: Tensor, index: Tensor) -> Tensor:
        """Features of frames with their temporal code `(f, p, d)`, without gradient.

        Args:
            pixels: of `Eye.pixels`, f frames.
            index: per frame its number, or its second `(f,)`.
        """
        seen = look(self.eye, pixels.to(self._table.weight.dtype))
        return self.memory.timed(seen.to(self.memory.initial), index)

    def remember(self, features: Tensor, state: MemoryState = EMPTY, recompute: bool = False) -> MemoryState:
        """The state after more frames, a segment at a time; the last segment may be shorter.

        Args:
            features: with temporal code `(b, f, p, d)`.
            state: to go on from.
            recompute: see `VideoMemory.step`.
        """
        for segment in features.split(self.settings.segment, dim=1):  # type: ignore[no-untyped-call]
            state = self.memory.step(state, segment, recompute)
        return state

    def block(self, memory: Tensor | None, frames: Tensor | None) -> Tensor:
        """What comes in a video's place `(m, d)`: each part behind its header, a newline at its end.

        Args:
            memory: what the reader is given of the states `(v, d)`; None leaves the part out.
            frames: with temporal code `(f, p, d)`; None leaves the part out.
        """
        parts = []
        if memory is not None:
            parts += [self._words(self.headers.memory), memory, self.newline]
        if frames is not None:
            shown = self.memory.frames(frames.to(self.memory.initial)).flatten(0, 1)
            parts += [self._words(self.headers.frames), shown, self.newline]
        table = self._table.weight
        if not parts:
            return table.new_zeros(0, table.shape[1])
        return torch.cat([part.to(table) for part in parts])

    @property
    def newline(self) -> Tensor:
        """What ends a part `(n, d)`: the model's own vector, else its embedding of a line break."""
        own = getattr(self.model.base_model, "image_newline", None)
        return self._words(self.headers.newline) if own is None else own[None]

    @property
    def _table(self) -> nn.Embedding:
        return cast(nn.Embedding, self.model.get_input_embeddings())

    def _words(self, ids: Sequence[int]) -> Tensor:
        """Embeddings of ids `(n, d)`."""
        return cast(
            Tensor, self._table(torch.tensor(ids, dtype=torch.long, device=self._table.weight.device))
        )


class VideoMemoryEncoder(VideoReader, MemoryEncoder):
    """The memory of videos: a segment's vectors in a bank, or a whole video's block in its reader's prompt.

    ```python
    backbone = load_backbone("llava_onevision")
    encoder = load_encoder("runs/video/merged", backbone)
    blocks = encoder.blocks([VideoRef("film.mp4")])         # per video (m, d), for the infix
    ```

    Args:
        model: an unmodified model of transformers: it sees the frames, and reads the memory.
        processor: the model's.
        eye: the model's.
        memory: recurrent part, of the model's width.
        headers: words around memory and frames.
        tune: what training changes.
        lora: of the language model, with `tune` "lora".
        accepts: fingerprints of other encoders whose memories are as good.
    """

    kind = "video_memory"
    one_size = False

    def __init__(
        self, model: Any, processor: Any, eye: Eye, memory: VideoMemory, headers: Headers,
        tune: Tune = "memory", lora: LoraSettings | None = None, accepts: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(model, eye, memory, headers)
        if memory.width != hidden_size(model):
            raise ValueError(f"a memory of width {memory.width}, the model reads {hidden_size(model)}")
        self.processor, self.tune, self.lora, self.accepts = processor, tune, lora, accepts
        self.num_vectors, self.width = memory.vectors, memory.width
        self.adapts_reader = tune != "memory"
        self.prepared = Prepared(model)
        #: whether a folder of it brings the model: one that was tuned with it, and then merged or converted
        self.whole = False
        self._running: tuple[tuple[Any, ...], int, MemoryState] | None = None
        self._known: tuple[tuple[int, ...], str] | None = None
        self._base: str | None = None

    @property
    def device(self) -> device:
        """Of the memory."""
        return self.memory.initial.device

    @property
    def frames(self) -> VideoInputs:
        """How videos become what `forward` takes."""
        return VideoInputs(self.eye, self.settings)

    @torch.no_grad()
    def see(self, video: VideoRef) -> Tensor:
        """A video's frames as the memory reads them, with temporal code `(f, p, d)`."""
        frames, picked = self.frames, pick(video, self.frames.rule)
        seen = torch.cat([look(self.eye, part.to(self._table.weight)) for part in frames.pixels(picked)])
        rows = memory_frames(len(picked), self.settings.segment, self.settings.fill)
        return self.memory.timed(seen.to(self.memory.initial)[rows], frames.index(picked, rows))

    @torch.no_grad()
    def blocks(self, videos: Sequence[VideoRef], read: Read | None = None) -> list[Tensor]:
        """What comes in each video's place `(m, d)`; every video for itself, whatever its company.

        Args:
            videos: any number.
            read: memory, frames or both; None as the settings say.

        Raises:
            VideoError: a video that cannot be read; names it.
        """
        with self.prepared, evaluating(self):
            return [self.block_of(self.see(video), read) for video in videos]

    def block_of(self, features: Tensor, read: Read | None = None) -> Tensor:
        """The block `(m, d)` of one video's frames with temporal code `(f, p, d)`."""
        read = read or self.settings.read
        rows = shown_frames(len(features), self.settings.kept).to(features.device)
        state = EMPTY if read == "frames" else self.remember(features[None])
        return self.block_from(state, features[rows], read)

    def block_from(self, state: MemoryState, shown: Tensor, read: Read | None = None) -> Tensor:
        """The block `(m, d)` of a state of one video and the frames `(f, p, d)` that are shown beside it."""
        read = read or self.settings.read
        closed = self.memory.closed and not self.training  # open in training: so the gate can learn
        memory = None if read == "frames" or closed else self.memory.read(state)[0]
        return self.block(memory, None if read == "memory" else shown)

    def inputs(self, items: Sequence[KnowledgeItem]) -> dict[str, Tensor]:
        """Frames of items' videos for `forward`: pixels one after another, their index, frames of each."""
        return self.frames.inputs([_video(item) for item in items])

    def forward(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The blocks of a batch of videos, differentiable; those of one length go through together.

        In training, frames are left out of all of them with probability `frame_dropout`, one draw a call.
        """
        seen = self.timed(inputs["pixels"], inputs["index"])
        parts = seen.split(inputs["counts"].tolist())  # type: ignore[no-untyped-call]
        read = self.settings.read
        dropout = self.settings.frame_dropout if self.training and read == "both" else 0.0
        if dropout and float(torch.rand(())) < dropout:
            read = "memory"
        states: dict[int, MemoryState] = {}
        for length in {len(part) for part in parts} if read != "frames" else ():
            rows = [row for row, part in enumerate(parts) if len(part) == length]
            together = self.remember(torch.stack([parts[row] for row in rows]), recompute=self.recompute)
            states |= {row: together.row(at) for at, row in enumerate(rows)}
        return [
            self.block_from(
                states.get(row, EMPTY),
                part[shown_frames(len(part), self.settings.kept).to(part.device)],
                read,
            )
            for row, part in enumerate(parts)
        ]

    @torch.no_grad()
    def encode(
        self, items: Sequence[KnowledgeItem], batch_size: int = 16, inputs: InputsOf | None = None
    ) -> MemoryBank:
        """As `MemoryEncoder.encode`: of each item, a segment of a video, the state at its end, to be read.

        A state depends on all before it, so a video is read from its begin; what follows a segment that was
        asked for last goes on from there.
        """
        rows = torch.empty(len(items), self.memory.vectors, self.width, dtype=self.memory.initial.dtype)
        bank = MemoryBank(rows.to(self.device), tuple(item.id for item in items), self.fingerprint())
        order = sorted(range(len(items)), key=lambda i: (str(_video(items[i])), _video(items[i]).start))
        with self.prepared, evaluating(self):
            for i in order:
                bank.embeddings[i] = self._segment(_video(items[i]))
        return bank

    def _segment(self, video: VideoRef) -> Tensor:
        """The vectors `(v, d)` of the segment at a video's end."""
        whole = replace(video, start=0.0)
        frames, picked = self.frames, pick(whole, self.frames.rule)
        first = -(-len(picked) // self.settings.segment) - 1  # segments before this one
        key = (str(video), video._digest, video.fps)
        done, state = 0, EMPTY
        if self._running is not None and self._running[0] == key and self._running[1] <= first:
            done, state = self._running[1:]
        size = self.settings.segment
        for number in range(done, first + 1):
            part = slice(number * size, (number + 1) * size)
            rest = Picked(whole, picked.positions[part], picked.times[part])
            index = frames.index(picked, torch.arange(len(picked))[part])
            timed = self.timed(torch.cat(list(frames.pixels(rest))).to(self.device), index)
            state = self.memory.step(state, timed[None])
            if len(rest) == size:  # a shorter one is the video's end so far
                self._running = (key, number + 1, state)
        return self.memory.read_states(state.states[-1:])[0, 0]

    @property
    def recompute(self) -> bool:
        """Whether training computes activations of the memory again rather than holding them."""
        name = "is_activation_checkpointing"  # transformers 5.2x; the old name ends in v6
        return bool(getattr(self.model, name if hasattr(self.model, name) else "is_gradient_checkpointing"))

    def item_format(self) -> dict[str, Any]:
        """As `MemoryEncoder.item_format`: a video's segments are not written."""
        return {"prompt": self.settings.memory_header, "max_chars": 0, "min_pixels": None, "max_pixels": None}

    def fingerprint(self) -> str:
        """SHA-256 over all that a memory depends on; see `QFormerEncoder.fingerprint`."""
        key = weights_version(self)
        if self._known is None or self._known[0] != key:
            facts = {
                "version": 1, "video": asdict(self.settings), "grid": self.memory.grid,
                "headers": asdict(self.headers), "base": self.base_digest(),
            }  # fmt: skip
            digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
            for tensors in self.trained_state().values():
                add_tensors(digest, tensors)
            self._known = (key, digest.hexdigest())
        return self._known[1]

    def base_digest(self, keep: bool = False) -> str:
        """The base's identity; of one whose weights are trained, from before the training."""
        found = self._base or base_digest(self.model)
        if keep or self.tune == "full":
            self._base = found
        return found

    def trained_state(self) -> dict[str, dict[str, Tensor]]:
        """What training changes, by the file that it is saved in."""
        state: dict[str, dict[str, Tensor]] = {MEMORY: self.memory.state_dict()}
        if self.lora is not None:
            state[ADAPTER] = lora_state(_language(self.model))
        if self.tune == "full":
            state[READER] = {name: p.detach() for name, p in _tuned(self.model).items()}
        return state

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What training changes."""
        return [p for p in self.parameters() if p.requires_grad]

    def merge(self) -> VideoMemoryEncoder:
        """LoRA folded into the model, which is changed in place: an ordinary model and its memory."""
        if self.lora is not None:
            fold_lora(_language(self.model))
        parts = self.model, self.processor, self.eye, self.memory, self.headers
        merged = VideoMemoryEncoder(*parts, "memory", None, self.accepted_fingerprints())
        merged.whole = self.whole or self.tune != "memory"
        return merged

    def save(self, folder: str | Path) -> None:
        """Write the memory, and what else was trained, as a whole or not at all.

        A merged encoder whose model was trained brings the model: the folder is a model's, too.

        Raises:
            StorageError: no space is left.
        """
        whole = self.whole

        def write(temporary: Path) -> None:
            for name, tensors in self.trained_state().items():
                write_tensors(temporary / name, tensors)
            if whole:
                self.model.save_pretrained(temporary)
                if self.processor is not None:
                    self.processor.save_pretrained(temporary)

        config: Any = self.model.config
        base = {
            "name": "" if whole else str(getattr(config, "_name_or_path", "") or ""),
            "model_type": config.model_type,
            "hidden_size": self.width,
            "digest": self.base_digest(),
        }
        about = {
            "encoder": self.kind, "kind": "merged" if whole else "adapter", "base": base,
            "video": asdict(self.settings), "grid": list(self.memory.grid), "headers": asdict(self.headers),
            "tune": self.tune, "lora": None if self.lora is None else asdict(self.lora),
            "fingerprint": self.fingerprint(), "accepts": list(self.accepts),
        }  # fmt: skip
        write_about(folder, about, write)

    @torch.no_grad()
    def load_weights(self, folder: str | Path) -> None:
        """Take over a folder's trained tensors, of the same sizes (to resume a training, or to start one).

        Raises:
            ValueError: other sizes, or other parts; names the tensor.
        """
        folder = Path(folder)
        about = read_about(folder)
        if about.get("encoder") != self.kind:
            raise ValueError(f"{folder / CONFIG}: an encoder of the kind {about.get('encoder')!r}")
        own = self.trained_state()
        for name, tensors in own.items():
            if not (folder / name).is_file():
                if name == MEMORY:
                    raise ValueError(f"{folder / name}: missing, no memory can be computed: copy it again")
                continue  # the first stage trained less
            read = read_tensors(folder / name)
            wrong = sorted(read.keys() ^ tensors.keys())
            wrong = wrong or [n for n, tensor in tensors.items() if tensor.shape != read[n].shape]
            if wrong:
                raise ValueError(f"{folder / name}: {wrong[0]} does not fit: trained with other video sizes")
            if name == ADAPTER:
                load_lora_state(_language(self.model), read, str(folder / name))
                continue
            for each, tensor in tensors.items():
                tensor.copy_(read[each])

    def read_folder(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        """The trained tensors of a folder of this kind, by file."""
        return {name: read_tensors(folder / name) for name in self.trained_state()}


def _video(item: KnowledgeItem) -> VideoRef:
    if item.video is None:
        raise ValueError(f"knowledge item {item.id!r} has no video: this encoder remembers videos")
    return item.video


def _language(model: Any) -> nn.Module:
    """The decoder of a model."""
    return cast(nn.Module, model.get_decoder())


def _tuned(model: Any) -> dict[str, nn.Parameter]:
    """What is trained of a model in full: its language model, embeddings, head and newline; not the tower."""
    kept = ("language_model.", "lm_head.", "image_newline")
    return {name: p for name, p in model.named_parameters() if any(part in name for part in kept)}


def build_encoder(
    backbone: Backbone, *, video: VideoMemorySettings = VideoMemorySettings(),  # noqa: B008 (frozen)
    lora: LoraSettings = LoraSettings(), tune: Tune = "memory", **_: Any,  # noqa: B008 (frozen)
) -> VideoMemoryEncoder:  # fmt: skip
    """A new memory on a backbone's own model, explicitly initialised, to be trained.

    Args:
        backbone: whose model sees and reads.
        video: sizes.
        lora: of the language model, with `tune` "lora".
        tune: what training changes.
    """
    model = backbone.model
    eye = eye_of(model, backbone.processor, video.side)
    width = hidden_size(model)
    memory = VideoMemory(video, width, eye.grid).to(model.get_input_embeddings().weight.device)
    model.requires_grad_(False)
    adapts = lora if tune == "lora" else None
    if adapts is not None:
        add_lora(_language(model), adapts)
    made = VideoMemoryEncoder(
        model, backbone.processor, eye, memory, headers_of(video, backbone.process.tokenizer), tune, adapts
    )
    if tune == "full":
        made.base_digest()  # before it changes
        for parameter in _tuned(model).values():
            parameter.requires_grad_(True)
    return made


@torch.no_grad()
def _load(
    folder: Path, about: Mapping[str, Any], backbone: Backbone | None, target: str | device | None
) -> VideoMemoryEncoder:
    """On the backbone's model, if the memory was made on it; a merged folder brings its own."""
    from comem.backbones.hf import load_backbone

    if backbone is None:
        backbone = load_backbone(str(folder) if about["kind"] == "merged" else about["base"]["name"])
    if base_digest(backbone.model) != about["base"]["digest"]:
        raise ValueError(
            f"{folder / CONFIG}: made on another model than the one given: answer with "
            f"{folder if about['kind'] == 'merged' else about['base']['name'] or 'its own base'}"
        )
    lora = LoraSettings(**(about["lora"] or {}))
    encoder = build_encoder(
        backbone, video=VideoMemorySettings(**about["video"]), lora=lora, tune=about["tune"]
    )
    encoder.headers = Headers(**{name: tuple(ids) for name, ids in about["headers"].items()})
    encoder.accepts = tuple(about["accepts"])
    encoder.load_weights(folder)
    encoder.requires_grad_(False)
    return encoder.eval()


ROW = EncoderKind(build_encoder, _load, trained=True)
