"""CoMemo's golden folder (golden/comemo/README.md): every output of the authors' modules that it names.

The converter loads the folder and `CoMemo.attach` reads the images, as in chat and training. Two things
that only the authors do are built here: a text that attends to a white dummy tile, and their mask that
    takes the attention
away and leaves the gated feed-forward layer.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comem.backbones.chatml import IGNORED, answer_labels
from comem.backbones.comemo import (
    IMAGE_TOKEN,
    CoMemo,
    CoMemoConfig,
    CoMemoProcessor,
    expand,
    image_processor,
)
from comem.backbones.image_positions import PositionScheme, row_positions
from comem.backbones.media import Media
from comem.backbones.prepared import Prepared, Segments
from comem.compat.comemo import ours, read_authors
from comem.compat.difference import Difference, max_abs
from comem.io.files import read_json
from comem.memory.bank import read_tensors

#: The README's bounds: outputs; losses and gradients; integers and pixels.
OUTPUTS, GRADIENTS, EXACT = 5e-5, 1e-5, 0.0
_NAMES: dict[str, PositionScheme] = {
    "coded": "dhr_released",
    "intended": "dhr",
    "plain": "plain",
    "all": "dhr",
    "masked": "dhr",
}
_NEW = 12
Outputs = dict[str, Tensor]


def run(folder: Path) -> list[Difference]:
    """Compare all that is there.

    Raises:
        ValueError: the folder holds no CoMemo checkpoint, or an incomplete one.
    """
    comemo = read_authors(folder, torch.float32, tokenizer=None)
    about = read_json(folder / "config.json")
    found = []
    for path in sorted(folder.glob("case_*.safetensors")):
        case = read_tensors(path)
        kind = _packed if "seq_imgs" in case else _text if "skipped.logits" in case else _images
        outputs = kind(comemo, case, about["golden"])
        found += [_difference(path.stem, name, outputs[name], case[name]) for name in case if name in outputs]
    return found + _grids(folder, about) + _pixels(folder, about) + _prompts(folder, about)


def _difference(case: str, name: str, ours: Tensor, golden: Tensor) -> Difference:
    """How far an output is, and how far it may be; norms of gradients count relative to their size."""
    last = name.rpartition(".")[2]
    if not golden.is_floating_point():
        return Difference(case, name, max_abs(ours, golden), EXACT)
    if last == "grad_norms" and ours.shape == golden.shape:
        ours, golden = ours / golden.clamp(min=1), golden / golden.clamp(min=1)
    bound = GRADIENTS if last.startswith(("grad", "loss")) else OUTPUTS
    return Difference(case, name, max_abs(ours, golden), bound)


def pixels(comemo: CoMemo, tiles: Tensor) -> Tensor:
    """Stored tiles `(T, 3, 64, 64)` as `(T, 3, s, s)`."""
    times = int(comemo.model.config.vision_config.image_size[0]) // tiles.shape[-1]
    return (tiles.float() / 32).repeat_interleave(times, 2).repeat_interleave(times, 3)


def counting(comemo: CoMemo, **changes: Any) -> CoMemo:
    """The same model, ids counted another way."""
    return CoMemo(comemo.model, comemo.blocks, replace(comemo.config, **changes))


class _Seen:
    """Hidden states behind each block, what each cross-attention gives, and the decoder's positions."""

    def __init__(self) -> None:
        self.blocks: dict[str, Tensor] = {}
        self.cross: dict[str, Tensor] = {}


@contextmanager
def watched(comemo: CoMemo) -> Iterator[_Seen]:
    """Notes what passes the blocks; opened inside of `attach`, as its hooks have to come later."""
    seen, decoder = _Seen(), comemo.model.get_decoder()

    def layer(number: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.blocks[number] = args[0] if args else kwargs["hidden_states"]

        return note

    def cross(number: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            before = seen.cross.get(number)  # samples of a packed row come one after the other
            seen.cross[number] = output if before is None else torch.cat([before, output], dim=1)

        return note

    with ExitStack() as hooks:
        for number, block in comemo.blocks.blocks.items():
            hooks.callback(
                decoder.layers[int(number)].register_forward_pre_hook(layer(number), with_kwargs=True).remove
            )
            hooks.callback(block.to_out.register_forward_hook(cross(number)).remove)  # type: ignore[union-attr]
        yield seen


def _images(comemo: CoMemo, case: Mapping[str, Tensor], golden: Mapping[str, Any]) -> Outputs:
    """A row with images."""
    given = {
        "input_ids": case["input_ids"].long(),
        "attention_mask": torch.ones_like(case["input_ids"]),
        "pixel_values": pixels(comemo, case["tiles"]),
        "image_grids": case["grids"],
    }
    with torch.no_grad():
        tower: Any = comemo.model.model.vision_tower
        hidden = tower(pixel_values=given["pixel_values"]).last_hidden_state
        tokens = comemo.image_tokens(given["pixel_values"]).flatten(0, 1)
    outputs = {
        "vit_hidden_sample": hidden[:, [0, 1, 2, 33, hidden.shape[1] - 1]],
        "image_embeds_sample": tokens[37::101],
        "image_embeds_norm": tokens.norm(dim=-1),
    }
    for prefix in _prefixes(case):
        scheme = _NAMES[prefix]
        ours_ = _reads(counting(comemo, positions=scheme), case, given, golden)
        outputs |= {f"{prefix}.{name}": value for name, value in ours_.items()}
    return outputs


def _prefixes(case: Mapping[str, Tensor]) -> list[str]:
    return sorted({name.partition(".")[0] for name in case if "." in name})


def _reads(
    comemo: CoMemo, case: Mapping[str, Tensor], given: Mapping[str, Tensor], golden: Mapping[str, Any]
) -> Outputs:
    """Forward, gradients and decoding under one position scheme."""
    rows = comemo.positions(given)
    outputs = {"position_ids": rows[0].tokens[None], "media_position_ids": rows[0].media[None]}
    with comemo.attach(given) as ready, watched(comemo) as seen:
        logits = comemo.model(**ready).logits
    loss = F.cross_entropy(logits[0, :-1], case["labels"][0, 1:].long(), ignore_index=IGNORED)
    outputs |= {"loss": loss} | _seen(seen, logits, case["rows"].long())
    outputs |= _gradients(comemo, loss, golden)
    length = int(case["prompt_length"])
    prompt = {
        **given,
        "input_ids": given["input_ids"][:, :length],
        "attention_mask": given["attention_mask"][:, :length],
    }
    for name, how in (("continuous", "continue"), ("authors", "released")):
        tokens, steps = _decoded(counting(comemo, decode_positions=how), prompt)
        outputs |= {f"{name}_generated": tokens, f"{name}_step_logits": steps}
    last = int(rows[0].tokens[length - 1])
    jump = rows[0].jump + torch.arange(last + 1, last + _NEW)
    outputs["authors_query_positions"] = torch.cat([torch.tensor([last]), jump])
    return {name: value.detach() for name, value in outputs.items()}


def _seen(seen: _Seen, logits: Tensor, rows: Tensor) -> Outputs:
    """Outputs at the rows that are kept, and their norms everywhere."""
    outputs = {"logits": logits[0, rows], "logits_norm": logits[0].norm(dim=-1)}
    for number, hidden in seen.blocks.items():
        outputs |= {f"block{number}": hidden[0, rows], f"block{number}_norm": hidden[0].norm(dim=-1)}
    return outputs | {f"cross{number}_norm": out[0].norm(dim=-1) for number, out in seen.cross.items()}


def _gradients(comemo: CoMemo, loss: Tensor, golden: Mapping[str, Any]) -> Outputs:
    """Gradients of a loss: gates and norms of the blocks, and the norms of what the config names."""
    named = {f"model.{n}": p for n, p in comemo.model.named_parameters()}
    named |= {f"blocks.{n}": p for n, p in comemo.blocks.named_parameters()}
    for parameter in named.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    blocks = list(comemo.blocks.blocks.values())
    norms = []
    for name in golden["grad_norm_names"]:
        fused = torch.empty(_stored_shape(comemo, name), device="meta")
        parts = [named[place].grad for place, _ in ours(name, fused, comemo.model.config)]
        norms.append(torch.stack([part.norm() for part in parts if part is not None]).norm())
    found = {
        "grad_attn_gate": torch.cat([block.attn_gate.grad for block in blocks]),  # type: ignore[misc]
        "grad_ff_gate": torch.cat([block.ff_gate.grad for block in blocks]),  # type: ignore[misc]
        "grad_cross_attention_norm": torch.stack([block.norm.grad for block in blocks]),  # type: ignore[misc]
        "grad_norms": torch.stack(norms),
    }
    found = {name: value.clone() for name, value in found.items()}
    comemo.zero_grad(set_to_none=True)
    return found


def _stored_shape(comemo: CoMemo, name: str) -> tuple[int, ...]:
    """A shape that splits as the stored tensor would: of the fused ones, and of all others any."""
    text, vision = comemo.model.config.text_config, comemo.model.config.vision_config
    if name.endswith("wqkv.weight"):
        width = text.hidden_size // text.num_attention_heads
        return ((text.num_attention_heads + 2 * text.num_key_value_heads) * width, text.hidden_size)
    return (3 * vision.hidden_size, 1)


@torch.no_grad()
def _decoded(comemo: CoMemo, prompt: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Greedy tokens `(t,)` and their steps' logits `(t, V)`, by transformers' own `generate`."""
    with comemo.attach(prompt) as ready:
        out: Any = comemo.model.generate(
            **ready, max_new_tokens=_NEW, min_new_tokens=_NEW, do_sample=False, return_dict_in_generate=True,
            output_logits=True, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
    return out.sequences[0, -_NEW:], torch.cat(out.logits)


def _text(comemo: CoMemo, case: Mapping[str, Tensor], golden: Mapping[str, Any]) -> Outputs:
    """A row without images: ours is the base model; the authors' two other behaviours are built here."""
    ids = case["input_ids"].long()
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    outputs = {"position_ids": comemo.positions(given)[0].tokens[None]}
    length = int(case["prompt_length"])
    prompt = {name: value[:, :length] for name, value in given.items()}
    outputs["skipped.generated"], outputs["skipped.step_logits"] = _decoded(comemo, prompt)
    with torch.no_grad():
        white = comemo.image_tokens(white_tile(comemo, case)).flatten(0, 1)
        media = Media(white[None], (len(white),), torch.arange(len(white))[None])
        ways: dict[str, tuple[Media | None, Tensor | None]] = {
            "skipped": (None, None),
            "dummy_image": (media, None),
            "masked": (media, torch.zeros(ids.shape[1])),
        }
        for name, (dummy, scale) in ways.items():
            with (
                comemo.attach(given) as ready,
                comemo.blocks.attach(comemo.model, dummy),
                scaled(comemo, scale),
            ):
                logits = comemo.model(**ready).logits
            loss = F.cross_entropy(logits[0, :-1], case["labels"][0, 1:].long(), ignore_index=IGNORED)
            outputs |= {f"{name}.logits": logits[0], f"{name}.loss": loss}
    return outputs


def white_tile(comemo: CoMemo, case: Mapping[str, Tensor]) -> Tensor:
    """The authors' dummy `(1, 3, s, s)`."""
    edge = int(comemo.model.config.vision_config.image_size[0])
    return case["white_pixel"][None, :, None, None].expand(1, 3, edge, edge)


@contextmanager
def scaled(comemo: CoMemo, scale: Tensor | None) -> Iterator[None]:
    """The authors' `text_time`: cross-attention outputs times `(l,)`, the feed-forward layer left on."""
    at = {"done": 0}

    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        assert scale is not None
        start = at["done"] % len(scale)  # samples of a packed row come one after the other
        at["done"] += output.shape[1]
        return output * scale[start : start + output.shape[1], None]

    with ExitStack() as hooks:
        for block in comemo.blocks.blocks.values() if scale is not None else ():
            hooks.callback(block.to_out.register_forward_hook(hook).remove)  # type: ignore[union-attr]
        yield


def _packed(comemo: CoMemo, case: Mapping[str, Tensor], golden: Mapping[str, Any]) -> Outputs:
    """Samples in one row; the authors' text sample attends to a white tile."""
    outputs: Outputs = {}
    bounds = list(zip(case["cu_seqlens_q"].tolist(), case["cu_seqlens_q"][1:].tolist(), strict=False))
    grids = [[tuple(grid) for grid in sample] for sample in golden["packed"]]
    image_id = int(comemo.model.config.image_token_id)
    is_image = case["input_ids"][0] == image_id
    one = comemo.side**2
    for prefix in _prefixes(case):
        rows = [
            row_positions(is_image[start:end], sample, comemo.side, _NAMES[prefix])
            for (start, end), sample in zip(bounds, grids, strict=True)
        ]
        media = [row.media if len(row.media) else torch.arange(one) for row in rows]
        tokens, places = torch.cat([row.tokens for row in rows])[None], torch.cat(media)[None]
        outputs |= {f"{prefix}_position_ids": tokens, f"{prefix}_media_position_ids": places}
        ends = torch.tensor([0, *(len(own) for own in media)]).cumsum(0)
        outputs["cu_seqlens_k"] = ends
        flags = case["image_flags"].bool()
        white = white_tile(comemo, case)[0]
        real = iter(pixels(comemo, case["tiles"]))
        shown = [next(real) if flag else white for flag in flags.tolist()]
        image_tokens = comemo.image_tokens(torch.stack(shown)).flatten(0, 1)
        own_tokens = image_tokens[flags.repeat_interleave(one)]
        spans = [
            (*bound, int(first), int(last))
            for bound, first, last in zip(bounds, ends, ends[1:], strict=False)
        ]
        dummy = Media(image_tokens[None], tuple(map(len, media)), places, tuple(spans))
        scale = _attending(case, bounds) if prefix == "masked" else None
        embeds = comemo.embeds(case["input_ids"].long(), own_tokens)
        segments = Segments.of([end - start for start, end in bounds])
        with (
            Prepared(comemo.model, packs=True),
            comemo.blocks.attach(comemo.model, dummy),
            watched(comemo) as seen,
            scaled(comemo, scale),
        ):
            mask = torch.ones_like(case["input_ids"])
            logits = comemo.model(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=tokens,
                segments=segments,
                use_cache=False,
            ).logits
        entropy = F.cross_entropy(
            logits[0, :-1], case["labels"][0, 1:].long(), ignore_index=IGNORED, reduction="none"
        )
        weight = case["loss_weight"][0, 1:]
        loss = (entropy * weight).sum() / weight.sum()
        learned = case["labels"][0, 1:] != IGNORED
        found = {"loss": loss, "loss_token_mean": entropy[learned].mean()}
        found |= _seen(seen, logits, case["rows"].long()) | _gradients(comemo, loss, golden)
        outputs |= {f"{prefix}.{name}": value.detach() for name, value in found.items()}
    return outputs


def _attending(case: Mapping[str, Tensor], bounds: Sequence[tuple[int, int]]) -> Tensor:
    """`(l,)`: 1 where a token's sample has images, 0 in one whose tile is no image."""
    keep, at = torch.ones(case["input_ids"].shape[1]), 0
    for (start, end), count in zip(bounds, case["seq_imgs"].tolist(), strict=True):
        keep[start:end] = float(bool(case["image_flags"][at : at + count].any()))
        at += count
    return keep


def _settings(about: Mapping[str, Any], most: int) -> CoMemoConfig:
    from comem.compat.comemo import block_sizes

    return CoMemoConfig(block_sizes(Path("config.json"), about), max_tiles=most, min_tiles=min(1, most))


def _processor(about: Mapping[str, Any], most: int, tokenizer: Any = None) -> CoMemoProcessor:
    vision = about["vision_config"]
    side = int(vision["image_size"] // vision["patch_size"] * about.get("downsample_ratio", 0.5))
    return CoMemoProcessor(tokenizer, image_processor(vision["image_size"]), side, _settings(about, most))


def _grids(folder: Path, about: Mapping[str, Any]) -> list[Difference]:
    """Columns, rows and tiles of images of many sizes."""
    path = folder / "grids.json"
    if not path.is_file():
        return []
    from comem.backbones.comemo import grid_of
    from comem.backbones.image_positions import tiles

    edge = about["vision_config"]["image_size"]
    off = 0
    for width, height, most, *wanted in read_json(path)["rows"]:
        grid = grid_of((width, height), (edge, edge), 1, most)
        off += [*grid, tiles(grid)] != wanted
    return [Difference(path.stem, "grids that differ", float(off), EXACT)]


def _pixels(folder: Path, about: Mapping[str, Any]) -> list[Difference]:
    """Preprocessed images."""
    from PIL import Image

    path = folder / "preprocess.safetensors"
    if not path.is_file():
        return []
    case, found = read_tensors(path), []
    for name in sorted(name for name in case if re.fullmatch(r"image\d+", name)):
        processor = _processor(about, int(case[f"{name}.max_tiles"]))
        values, grids = processor.tiles([Image.fromarray(case[name].numpy())])
        wide = values.double()
        ours_ = {
            "grid": torch.tensor(grids[0]),
            "pixel_sample": values[:, :, 5::31, 9::29],
            "pixel_mean": wide.mean(dim=(2, 3)).float(),
            "pixel_std": wide.std(dim=(2, 3)).float(),
        }
        for part, value in ours_.items():
            golden = case[f"{name}.{part}"]
            bound = OUTPUTS if part in ("pixel_mean", "pixel_std") else EXACT
            found.append(Difference(path.stem, f"{name}.{part}", max_abs(value, golden), bound))
    return found


class GoldenTokenizer:
    """The golden folder's tokenizer: special tokens, and pieces of four characters by checksum."""

    def __init__(self, special: Mapping[str, int], size: int) -> None:
        self.special, self.size = special, size
        marks = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        self._split = re.compile(f"({marks})")

    def convert_tokens_to_ids(self, token: str) -> int:
        """Of a special token."""
        return self.special[token]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text, `<s>` first unless told otherwise."""
        ids, after_start = ([self.special["<s>"]] if add_special_tokens else []), False
        for part in filter(None, self._split.split(text)):
            if part in self.special:
                ids.append(self.special[part])
            else:
                role = re.match(r"[a-z]+\n", part) if after_start else None
                stretches = [part] if role is None else [role.group(), part[role.end() :]]
                ids += [self._piece(s[at : at + 4]) for s in stretches for at in range(0, len(s), 4)]
            after_start = part == "<|im_start|>"
        return ids

    def _piece(self, piece: str) -> int:
        return 10 + zlib.crc32(piece.encode()) % (self.size - 10)


def _prompts(folder: Path, about: Mapping[str, Any]) -> list[Difference]:
    """Prompts of training and of chat, what is learned of them, and their ids."""
    path = folder / "prompts.json"
    if not path.is_file():
        return []
    tokenizer = GoldenTokenizer(about["golden"]["special_token_ids"], about["llm_config"]["vocab_size"])
    processor, found = _processor(about, 12, tokenizer), []
    for number, row in enumerate(read_json(path)):
        turns = [turn for pair in row["turns"] for turn in zip(("user", "assistant"), pair, strict=True)]
        full = _as_stored(processor.apply_chat_template(_parts(turns), add_generation_prompt=False))
        asked = _as_stored(processor.apply_chat_template(_parts(turns[:-1])))
        shown = row["training_prompt"].replace("<image>", f"<img>{IMAGE_TOKEN}</img>")
        grids = [(1, 1)] * row["training_prompt"].count("<image>")
        ids = torch.tensor([tokenizer.encode(expand(shown, grids, processor.side))])
        labels = answer_labels(ids, tokenizer)[0]
        spans = torch.tensor(row["labelled_spans"])
        learned = torch.cat([torch.arange(start, end) for start, end in spans.tolist()])
        wanted = torch.tensor([token for span in row["labelled_ids"] for token in span])
        kept = (labels != IGNORED).nonzero()[:, 0]
        checks = {
            "training_prompt": float(full != row["training_prompt"]),
            "inference_prompt": float(asked != row["inference_prompt"]),
            "length": float(abs(ids.shape[1] - row["length"])),
            "labelled_spans": max_abs(kept, learned),
            "labelled_ids": max_abs(labels[kept], wanted),
        }
        found += [Difference(f"{path.stem}[{number}]", name, value, EXACT) for name, value in checks.items()]
    return found


def _parts(turns: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    r"""Turns with `<image>\n` as the processor takes them."""
    rendered = []
    for role, text in turns:
        pieces = re.split(r"(<image>\n)", text)
        parts = [
            {"type": "image"} if piece == "<image>\n" else {"type": "text", "text": piece} for piece in pieces
        ]
        rendered.append({"role": role, "content": [part for part in parts if part.get("text") != ""]})
    return rendered


def _as_stored(prompt: str) -> str:
    """A prompt of ours with `<image>` where the file has it."""
    return prompt.replace(f"<img>{IMAGE_TOKEN}</img>", "<image>")
