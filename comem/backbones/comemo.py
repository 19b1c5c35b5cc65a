"""CoMemo: a VLM that reads its images twice, in the sequence and through gated cross-attention.

The model is transformers' InternVL (InternViT, pixel shuffle, projector, any decoder); the blocks hang before
some of its decoder's layers (`comem.backbones.media`). Both paths take the same image tokens, and both count
positions by RoPE-DHR (`comem.backbones.image_positions`). docs/comemo.md says where this differs from the
authors' code, and why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from comem.backbones.hf import HFBackbone
from comem.backbones.image_positions import (
    Grid,
    LayoutError,
    Positions,
    PositionScheme,
    row_positions,
    tiles,
)
from comem.backbones.media import BlockSizes, Media, MediaBlocks
from comem.backbones.specs import BackboneError, BackboneSpec
from comem.io.files import new_folder, read_json, write_json

#: What the authors' chat begins with (their public code; InternVL's sentence about itself).
SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。"
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
START, END = "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE_TOKEN = "<img>", "</img>", "<IMG_CONTEXT>"
BLOCKS = "blocks.safetensors"
#: What config.json calls our part of it.
SECTION = "comemo"


@dataclass(frozen=True)
class CoMemoConfig:
    """What a model folder's config.json says under "comemo".

    Attributes:
        blocks: sizes of the blocks, and before which layers they are.
        positions: "dhr" as the paper means RoPE-DHR, "dhr_released" as the authors' code counts and their
            released weights were trained, "plain" the running index.
        decode_positions: decoded tokens "continue" the prompt's ids, as in training; "released" has the
            cross-attention jump to the uncompressed length, a defect, for their published outputs.
        min_tiles: of an image, the thumbnail not counted.
        max_tiles: the same; 0 gives every image one tile.
        system: what the conversation starts with; empty for nothing.
    """

    blocks: BlockSizes
    positions: PositionScheme = "dhr"
    decode_positions: Literal["continue", "released"] = "continue"
    min_tiles: int = 1
    max_tiles: int = 12
    system: str = SYSTEM

    def __post_init__(self) -> None:
        if self.positions not in ("dhr", "dhr_released", "plain"):
            raise BackboneError(f"positions={self.positions!r}; known: dhr, dhr_released, plain")
        if self.decode_positions not in ("continue", "released"):
            raise BackboneError(f"decode_positions={self.decode_positions!r}; known: continue, released")
        if not 0 <= self.min_tiles <= max(self.max_tiles, 1):
            raise BackboneError(f"tiles {self.min_tiles}..{self.max_tiles}: give 1 <= min_tiles <= max_tiles")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> CoMemoConfig:
        """From what `asdict` made of it."""
        return cls(**{**values, "blocks": BlockSizes(**values["blocks"])})


class CoMemo(nn.Module):
    """An InternVL model of transformers and its blocks.

    ```python
    comemo = CoMemo(InternVLForConditionalGeneration(config), MediaBlocks(sizes), CoMemoConfig(sizes))
    with comemo.attach(inputs) as ready:                 # inputs of CoMemoProcessor
        logits = comemo.model(**ready).logits
    ```

    Args:
        model: an InternVL model of transformers, with any decoder.
        blocks: of its decoder.
        config: how images are read and counted.
        image_path: "both"; "context" leaves the blocks out, "memory" the image tokens of the sequence: what
            stands there is the placeholder's own embedding. For experiments.
    """

    def __init__(
        self, model: Any, blocks: MediaBlocks, config: CoMemoConfig,
        image_path: Literal["both", "context", "memory"] = "both",
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.blocks, self.config, self.image_path = model, blocks, config, image_path

    @property
    def side(self) -> int:
        """Tokens along an edge of a tile: 16 of 448 pixels."""
        config, vision = self.model.config, self.model.config.vision_config
        return int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)

    def image_tokens(self, pixel_values: Tensor) -> Tensor:
        """Image tokens `(T, side², D)` of tiles `(T, 3, s, s)`, in the width of the decoder."""
        found = self.model.get_image_features(pixel_values=pixel_values, return_dict=True)
        # a tensor until transformers 5.2, then the pooler's output
        return cast(Tensor, found if isinstance(found, Tensor) else found.pooler_output)

    def positions(self, inputs: Mapping[str, Tensor]) -> list[Positions]:
        """Ids of each row's real tokens and image tokens.

        Raises:
            LayoutError: placeholders that do not match the images.
        """
        ids, mask = inputs["input_ids"], _mask(inputs)
        counts = _counts(inputs)
        grids = [(int(x), int(y)) for x, y in inputs.get("image_grids", torch.zeros(0, 2)).tolist()]
        if sum(counts) != len(grids):
            raise LayoutError(f"{sum(counts)} images in the rows, but {len(grids)} grids of tiles")
        found, at = [], 0
        for row, (own, count) in enumerate(zip(ids == self.model.config.image_token_id, counts, strict=True)):
            is_image = own[mask[row].bool()]
            found.append(row_positions(is_image, grids[at : at + count], self.side, self.config.positions))
            at += count
        return found

    @contextmanager
    def attach(self, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Have the model read a batch's images, on both paths, while the context is open.

        Args:
            inputs: `input_ids`, `attention_mask` `(b, l)`, and with images `pixel_values` `(T, 3, s, s)`,
                `image_grids` `(I, 2)` columns and rows of tiles, `image_counts` `(b,)` images of each row;
                other keywords pass through.

        Yields:
            What the model, or its `generate`, is to be called with: embeddings `(b, l, D)`, mask, positions.

        Raises:
            LayoutError: image tokens, tiles and placeholders that do not match.
        """
        rest = {
            k: v
            for k, v in inputs.items()
            if k not in ("input_ids", "pixel_values", "image_grids", "image_counts")
        }
        rows, mask = self.positions(inputs), _mask(inputs)
        tokens = self._tokens(inputs, rows)
        places = torch.zeros_like(inputs["input_ids"])
        for place, real, row in zip(places, mask, rows, strict=True):
            place[real.bool()] = row.tokens.to(place.device)
        embeds = self.embeds(inputs["input_ids"], None if tokens is None else torch.cat(tokens))
        ready = {**rest, "inputs_embeds": embeds, "attention_mask": mask, "position_ids": places}
        media = None if tokens is None or self.image_path == "context" else self._media(tokens, rows)
        jump = [row.jump for row in rows] if self.config.decode_positions == "released" else None
        with self.blocks.attach(self.model, media, jump):
            yield ready

    def _tokens(self, inputs: Mapping[str, Any], rows: Sequence[Positions]) -> list[Tensor] | None:
        """Each row's image tokens `(M, D)`; None without images."""
        pixels = inputs.get("pixel_values")
        sizes = [len(row.media) for row in rows]
        if pixels is None or not len(pixels):
            if any(sizes):
                raise LayoutError(f"placeholders for {sum(sizes)} image tokens, but no pixel_values")
            return None
        tokens = self.image_tokens(pixels).flatten(0, 1)
        if len(tokens) != sum(sizes):
            raise LayoutError(
                f"{len(pixels)} tiles give {len(tokens)} image tokens, the grids want {sum(sizes)}: a "
                "thumbnail is "
                "missing, or a tile too many"
            )
        return list(tokens.split(sizes))  # type: ignore[no-untyped-call]

    def embeds(self, ids: Tensor, tokens: Tensor | None) -> Tensor:
        """Embeddings `(b, l, D)`, image tokens in their places."""
        embeds = cast(Tensor, self.model.get_input_embeddings()(ids))
        if tokens is None or self.image_path == "memory":
            return embeds
        where = (ids == self.model.config.image_token_id)[..., None]
        return embeds.masked_scatter(where, tokens.to(embeds.dtype))

    def _media(self, tokens: Sequence[Tensor], rows: Sequence[Positions]) -> Media | None:
        device = tokens[0].device
        return Media.of(list(tokens), [row.media.to(device) for row in rows])

    @contextmanager
    def attach_packed(
        self, samples: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """The same for samples that follow each other in one row, each as if it came alone.

        The model has to be prepared for packed rows (`Prepared(model, packs=True)`).

        Args:
            samples: inputs of one row each, without padding; on the model's device.

        Yields:
            What the model is to be called with, `segments` aside, and the samples' lengths.
        """
        found = [self.positions(sample)[0] for sample in samples]
        pixels = [
            s["pixel_values"] for s in samples if s.get("pixel_values") is not None and len(s["pixel_values"])
        ]
        joined = {"pixel_values": torch.cat(pixels)} if pixels else {}
        tokens = self._tokens(joined, found)
        ids = torch.cat([sample["input_ids"] for sample in samples], dim=1)
        lengths = [sample["input_ids"].shape[1] for sample in samples]
        whole = None if tokens is None else torch.cat(tokens)
        media = None
        if whole is not None and self.image_path != "context":
            spans, at, first = [], 0, 0
            for length, row in zip(lengths, found, strict=True):
                spans.append((at, at + length, first, first + len(row.media)))
                at, first = at + length, first + len(row.media)
            places = torch.cat([row.media for row in found]).to(whole.device)
            media = Media(whole[None], tuple(len(row.media) for row in found), places[None], tuple(spans))
        ready = {
            "inputs_embeds": self.embeds(ids, whole),
            "attention_mask": torch.ones_like(ids),
            "position_ids": torch.cat([row.tokens for row in found])[None].to(ids.device),
        }
        with self.blocks.attach(self.model, media):
            yield ready, lengths

    def save(self, folder: str | Path, processor: Any = None) -> None:
        """Write a model folder that `comem.load_backbone` opens: transformers' files, and the blocks'."""
        with new_folder(Path(folder)) as temporary:
            self.model.save_pretrained(temporary)
            about = read_json(temporary / "config.json")
            write_json(temporary / "config.json", {**about, SECTION: asdict(self.config)})
            tensors = {
                name: value.detach().cpu().contiguous() for name, value in self.blocks.state_dict().items()
            }
            save_file(tensors, temporary / BLOCKS)
            if processor is not None:
                processor.save_pretrained(temporary)


def _mask(inputs: Mapping[str, Any]) -> Tensor:
    """The mask `(b, l)`: always one, or transformers takes jumps of the ids for samples of their own."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def _counts(inputs: Mapping[str, Any]) -> list[int]:
    """Images of each row."""
    counts, rows = inputs.get("image_counts"), len(inputs["input_ids"])
    if counts is not None:
        return [int(count) for count in counts]
    grids = inputs.get("image_grids")
    if rows > 1 and grids is not None and len(grids):
        raise LayoutError(f"{len(grids)} images for {rows} rows: say which has how many (image_counts)")
    return [0 if grids is None else len(grids)] + [0] * (rows - 1)


@dataclass(frozen=True)
class CoMemoProcessor:
    """Conversations and images to inputs of `CoMemo.attach`; no code of the hub is run.

    Attributes:
        tokenizer: with ChatML's and InternVL's special tokens.
        image_processor: cuts images into tiles: transformers' `GotOcr2ImageProcessorPil`.
        side: image tokens along an edge of a tile.
        config: tiles, and the system's sentence.
    """

    tokenizer: Any
    image_processor: Any
    side: int
    config: CoMemoConfig
    image_token: ClassVar[str] = IMAGE_TOKEN
    #: The markers that prompts hold, for who looks for unused ones.
    chat_template: ClassVar[str] = f"{START}{END}{IMAGE_START}{IMAGE_TOKEN}{IMAGE_END}"

    def apply_chat_template(
        self, turns: Sequence[Mapping[str, Any]], tokenize: bool = False, add_generation_prompt: bool = True
    ) -> str:
        """The prompt, one placeholder for each image (docs/comemo.md has the form)."""
        images = sum(part["type"] == "image" for turn in turns for part in turn["content"])
        text, shown = "", 0
        if self.config.system and not (turns and turns[0]["role"] == "system"):
            text = f"{START}system\n{self.config.system}{END}"
        for turn in turns:
            said = ""
            for part in turn["content"]:
                if part["type"] == "image":
                    shown += 1
                    said += f"Image-{shown}: " * (images > 1) + f"{IMAGE_START}{IMAGE_TOKEN}{IMAGE_END}\n"
                else:
                    said += part["text"]
            text += f"{START}{turn['role']}\n{said}{END}"
        return text + f"{START}assistant\n" * add_generation_prompt

    def tiles(self, images: Sequence[Any], max_tiles: int | None = None) -> tuple[Tensor, list[Grid]]:
        """Tiles `(T, 3, s, s)` of images, thumbnails last, and each one's columns and rows."""
        most = self.config.max_tiles if max_tiles is None else max_tiles
        pixels, grids = [], []
        for image in images:
            size = self.image_processor.size
            rgb = image.convert("RGB")
            found = self.image_processor(
                rgb,
                crop_to_patches=most > 1,
                min_patches=self.config.min_tiles,
                max_patches=most,
                return_tensors="pt",
            )
            pixels.append(found["pixel_values"])
            grids.append(grid_of(rgb.size, (size["height"], size["width"]), self.config.min_tiles, most))
        return torch.cat(pixels), grids

    def __call__(
        self, text: Sequence[str], images: Sequence[Sequence[Any]] | None = None, max_tiles: int | None =
            None,
        **options: Any,
    ) -> dict[str, Tensor]:  # fmt: skip
        """A batch.

        Args:
            text: prompts, one placeholder for each image.
            images: each prompt's.
            max_tiles: of an image; None as the config has it.
            options: of the tokenizer.

        Raises:
            LayoutError: another number of placeholders than of images.
        """
        rows = [[] for _ in text] if images is None else images
        shown = [image for row in rows for image in row]
        pixels, grids = self.tiles(shown, max_tiles) if shown else (None, [])
        at, prompts = 0, []
        for prompt, row in zip(text, rows, strict=True):
            prompts.append(expand(prompt, grids[at : at + len(row)], self.side))
            at += len(row)
        encoded = self.tokenizer(prompts, **options)
        batch = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
        if pixels is not None:
            batch |= {
                "pixel_values": pixels,
                "image_grids": torch.tensor(grids),
                "image_counts": torch.tensor([len(row) for row in rows]),
            }
        return batch

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer's and the image processor's files."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


def stop_at_turns(model: Any, tokenizer: Any) -> None:
    """Have a model that was just made stop where a turn ends, too."""
    own = model.generation_config.eos_token_id
    ids = {*(own if isinstance(own, (list, tuple)) else [own]), tokenizer.eos_token_id}
    ids.add(tokenizer.get_vocab().get(END))
    model.generation_config.eos_token_id = sorted(int(one) for one in ids if one is not None)


def expand(prompt: str, grids: Sequence[Grid], side: int) -> str:
    """A prompt with as many placeholders as its images have tokens.

    Raises:
        LayoutError: another number of placeholders than of images.
    """
    parts = prompt.split(IMAGE_TOKEN)
    if len(parts) != len(grids) + 1:
        raise LayoutError(f"{len(parts) - 1} placeholders in a prompt with {len(grids)} images")
    counts = [side * side * tiles(grid) for grid in grids]
    return parts[0] + "".join(IMAGE_TOKEN * n + part for n, part in zip(counts, parts[1:], strict=True))


def grid_of(size: tuple[int, int], tile: tuple[int, int], least: int, most: int) -> Grid:
    """Columns and rows of the tiles of an image of (width, height)."""
    if most <= 1:
        return 1, 1
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    columns, rows = get_optimal_tiled_canvas((size[1], size[0]), tile, max(least, 1), most)
    return int(columns), int(rows)


def image_processor(tile: int) -> Any:
    """Cuts images into tiles of so many pixels, bit for bit as the authors; its torchvision twin does not."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    return GotOcr2ImageProcessorPil(
        size={"height": tile, "width": tile},
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
        crop_to_patches=True,
    )


@dataclass(frozen=True)
class CoMemoBackbone(HFBackbone):
    """A CoMemo model that chats: every conversation with any number of images, in any turn.

    Attributes:
        comemo: model and blocks.
    """

    accelerates: ClassVar[bool] = False  # the engine steps aside: its graphs know no media

    comemo: CoMemo = field(kw_only=True)

    def using(self, **changes: Any) -> CoMemoBackbone:
        """The same model, read another way: `using(positions="plain")`, advised for text in images."""
        config = dataclasses.replace(self.comemo.config, **changes)
        comemo = CoMemo(self.model, self.comemo.blocks, config, self.comemo.image_path)
        processor = dataclasses.replace(self.processor, config=config)
        return dataclasses.replace(self, comemo=comemo, processor=processor)

    def _new_tokens(self, inputs: Mapping[str, Any], decoding: Mapping[str, Any]) -> Tensor:
        """As of `HFBackbone`, with the images read on both paths."""
        with self.comemo.attach(inputs) as ready:
            return cast(Tensor, self.model.generate(**ready, **decoding))


def open_folder(spec: BackboneSpec, dtype: Any, device: Any) -> CoMemoBackbone:
    """A folder that `CoMemo.save` wrote.

    Raises:
        BackboneError: an incomplete folder; names what is missing.
    """
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

    folder = Path(spec.source)
    about = read_json(folder / "config.json")
    if SECTION not in about or not (folder / BLOCKS).is_file():
        raise BackboneError(
            f"{folder}: no {SECTION!r} in config.json, or no {BLOCKS}: convert the checkpoint again"
        )
    config = CoMemoConfig.of(about[SECTION])
    model, info = InternVLForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    if info["missing_keys"] or info.get("mismatched_keys"):
        raise BackboneError(
            f"{folder}: {len(info['missing_keys'])} weights are missing: copy the folder again"
        )
    blocks = MediaBlocks(config.blocks)
    try:
        blocks.load_state_dict(load_file(folder / BLOCKS))
    except RuntimeError as error:
        raise BackboneError(
            f"{folder / BLOCKS}: not of the sizes in config.json ({str(error).splitlines()[0]})"
        ) from error
    comemo = CoMemo(model, blocks.to(model.dtype), config)
    return backbone(spec, comemo, PreTrainedTokenizerFast.from_pretrained(folder), device)


def backbone(spec: BackboneSpec, comemo: CoMemo, tokenizer: Any, device: Any) -> CoMemoBackbone:
    """The model, frozen and on its device, with the processor that goes with it."""
    comemo.eval().requires_grad_(False).to(device)
    tile = int(comemo.model.config.vision_config.image_size[0])
    processor = CoMemoProcessor(tokenizer, image_processor(tile), comemo.side, comemo.config)
    return CoMemoBackbone(spec, comemo.model, processor, comemo=comemo)
