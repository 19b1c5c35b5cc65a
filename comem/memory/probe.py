"""`comem backbone check`: what a model can do here, asked of the model itself.

Each question is put so that a wrong answer shows as a number. A soft prefix made of the embeddings of real
tokens has to give the logits of these tokens; keys and values of an item in front of a question those of the
ordinary prompt; a packed batch and a padded one those of its rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from comem.backbones.base import GenerationConfig, resized_by
from comem.backbones.hf import HFBackbone, load_backbone
from comem.backbones.positions import (
    attention,
    decoder_layers,
    forget_positions,
    free_ids,
    linear_layers,
    memory_layers,
    per_layer_table,
    text_positions,
    with_positions,
)
from comem.backbones.prepared import Prepared, pack
from comem.backbones.probe import (
    ROUNDING,
    batch_difference,
    looked_up,
    process_fault,
    sample_image,
    template_fault,
)
from comem.backbones.settings import BackboneCheckSettings
from comem.backbones.specs import BackboneError, BackboneSpec
from comem.io.console import print_facts, print_line, print_table
from comem.io.files import write_json
from comem.memory.injection.keys_values import KeysValues, join, read_items
from comem.memory.injection.prefix import PREFIX
from comem.types import Message

_ITEM, _QUESTION = "The tower of Oslo is 72 m high.", "How high is it?"


@dataclass(frozen=True)
class Finding:
    """One question that was put to a model.

    Attributes:
        ability: what was asked.
        works: the answer; None where it does not arise.
        says: what was found.
        remedy: what to do without it.
    """

    ability: str
    works: bool | None
    says: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Checked:
    """A model's row and what it rests on."""

    spec: BackboneSpec
    findings: tuple[Finding, ...]

    def modes(self) -> tuple[str, ...]:
        """The modes that the model can be run in."""
        able = {"comem": self.spec.soft_prefix, "vlm_as_memory": self.spec.kv_memory}
        asked = all(f.works is not False for f in self.findings if f.ability in ("chat template", "answers"))
        return ("baseline", "rag", *(mode for mode, can in able.items() if can)) if asked else ()


class _Fault(ValueError):
    """What was asked does not hold; the message says how far off it is."""


def check(settings: BackboneCheckSettings) -> Checked:
    """Load a model and put all questions to it.

    ```python
    for finding in check(BackboneCheckSettings("toy")).findings:
        print(finding)
    ```

    Raises:
        BackboneError: no such model, or it cannot be loaded.
    """
    backbone = load_backbone(settings.name, dtype=settings.dtype, device=settings.device)
    if not isinstance(backbone, HFBackbone):
        raise BackboneError(f"{settings.name} brings code of its own: it answers, and takes no memory")
    found = examine(backbone)
    if settings.output is not None:
        write_json(settings.output, asdict(found))
    return found


def examine(backbone: HFBackbone) -> Checked:
    """Put all questions to a loaded model."""
    spec = looked_up(replace(backbone.spec, declared=False), backbone.model, backbone.processor)
    backbone = HFBackbone(spec, backbone.model, backbone.processor)
    findings = [*_of_processor(backbone), *_of_model(backbone)]
    says = {finding.ability: finding.works for finding in findings}
    spec = replace(
        spec,
        soft_prefix=spec.soft_prefix and says["soft prefix"] is not False,
        kv_memory=spec.kv_memory and says["keys and values"] is not False,
        batches=says["batch = single"] is not False,
    )
    return Checked(spec, tuple(findings))


def _of_processor(backbone: HFBackbone) -> Iterator[Finding]:
    spec, chat = backbone.spec, backbone.process
    fault = template_fault(chat, [Message("user", ("x",))])
    yield Finding(
        "chat template", not fault, fault or ("turns alternate" if spec.alternates else "any turns"),
        "take the instruct version, or set tokenizer.chat_template and save it" if fault else "",
    )  # fmt: skip
    if not spec.sees_images:
        yield Finding("images", None, "a text-only model", "an encoder that sees may read them for it")
    else:
        fault = process_fault(spec, backbone.processor, [[Message("user", (sample_image(), "x"))]])
        yield Finding(
            "images", not fault, fault or ("several" if spec.several_images else "one"),
            "check the processor's files" if fault else "" if spec.several_images else "rag shows text only",
        )  # fmt: skip
        if not fault:
            yield _asked("an image's tokens", lambda: _cost(backbone), "every question needs an image")
            yield Finding("an image's size", True, _limits(backbone))
        if not spec.mixed_batches:
            yield Finding("mixed batches", False, "rows with and without images", "are asked apart by itself")
    free = free_ids(backbone.model, backbone.processor)
    yield Finding(
        "a free id", bool(free), f"{free[0]}" if free else "every id stands for a text",
        "" if free else "an id that no prompt of the batch holds is taken",
    )  # fmt: skip


def _cost(backbone: HFBackbone) -> str:
    """Tokens that images of usual sizes take."""
    said = []
    for width, height in ((448, 448), (1024, 768)):
        turns = [[Message("user", (sample_image(width, height), "x"))], [Message("user", ("x",))]]
        with_image, without = (backbone.process([turn])["input_ids"].shape[1] for turn in turns)
        said.append(f"{width}x{height}: {with_image - without}")
    return ", ".join(said)


def _limits(backbone: HFBackbone) -> str:
    known = resized_by(backbone.processor.image_processor)
    return f"limited by {' and '.join(known)}" if known else "cannot be limited: resize the files"


def _of_model(backbone: HFBackbone) -> Iterator[Finding]:
    model, spec = backbone.model, backbone.spec
    yield _asked("answers", lambda: _answers(backbone), "see that config.json and weights belong together")
    yield _asked("batch = single", lambda: _batch(backbone), "its questions are asked one by one")
    if not spec.soft_prefix:
        yield Finding("soft prefix", False, "an encoder-decoder model", "use baseline or rag")
    else:
        yield _asked("soft prefix", lambda: prefix_fault(backbone), "use baseline or rag")
    linear = linear_layers(model)
    if linear:
        yield Finding(
            "keys and values", False, f"{len(linear)} layers keep a state instead", "use comem or rag"
        )
    elif not spec.kv_memory:
        yield Finding("keys and values", False, "no layer has rotary full attention", "use comem or rag")
    else:
        yield _asked("keys and values", lambda: kv_fault(backbone), "use comem or rag")
    if not Prepared(model).packs:
        yield Finding("packing", None, "padded batches; the engine steps aside")
    else:
        yield _asked("packing", lambda: _packing(backbone), "load with attn=eager: nothing is packed then")
    if spec.sees_images:
        yield _asked("the image reaches the answer", lambda: _sees(backbone), "check the model's files")


def _asked(ability: str, question: Callable[[], str], remedy: str) -> Finding:
    """Put one question: it returns what it found, or raises."""
    try:
        return Finding(ability, True, question())
    except Exception as error:
        known = isinstance(error, ValueError) and str(error).strip()
        reason = str(error).strip() if known else f"{type(error).__name__}: {error}"
        return Finding(ability, False, reason.splitlines()[0][:160], remedy)


def _ids(backbone: HFBackbone, text: str) -> Tensor:
    tokens = backbone.process.tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor([tokens], device=backbone.device)


@torch.no_grad()
def _logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """`(b, l, v)`, in float32, of a call that sees nothing of earlier ones."""
    forget_positions(model)
    mask = inputs.get("attention_mask")
    positions = {} if mask is None else text_positions(model, mask)
    return model(**{**positions, **inputs}).logits.float()  # type: ignore[no-any-return]


def _plain(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _compare(found: Tensor, expected: Tensor, dtype: torch.dtype) -> str:
    """The relative difference, in words; `_Fault` if it is more than rounding."""
    return _within(float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9)), dtype)


def _within(worst: float, dtype: torch.dtype) -> str:
    if not worst <= ROUNDING.get(dtype, 1e-3):
        raise _Fault(f"logits are off by {worst:.1e} of the largest")
    return f"logits within {worst:.0e}"


def _answers(backbone: HFBackbone) -> str:
    """A question alone; with an image where a model answers nothing without one."""
    given, said = [(_QUESTION,), (sample_image(), _QUESTION)], ""
    for parts in given[: 1 + backbone.spec.sees_images]:
        try:
            (answer,) = backbone.generate(
                [[Message("user", parts)]], config=GenerationConfig(max_new_tokens=2)
            )
        except Exception as error:
            said = said or f"{type(error).__name__}: {error}"
            continue
        return f"a prompt of {answer.prompt_tokens} tokens" if not said else "questions with an image only"
    raise _Fault(said)


def _batch(backbone: HFBackbone) -> str:
    return _within(batch_difference(backbone.model, backbone.process), backbone.dtype)


def prefix_fault(backbone: HFBackbone) -> str:
    """A soft prefix of real tokens' embeddings against these tokens.

    Returns:
        What was found.

    Raises:
        ValueError: the answer is another one.
    """
    model = backbone.model
    item, question = _ids(backbone, _ITEM), _ids(backbone, _QUESTION)
    expected = _logits(model, _plain(torch.cat([item, question], dim=1)))[:, item.shape[1] :]
    with torch.no_grad():
        memory = model.get_input_embeddings()(item)[0]
    with PREFIX.attach(model, _plain(question), [memory]) as extended:
        found = _logits(model, extended)[:, item.shape[1] :]
    plain = _logits(model, _plain(question))
    if torch.equal(found, plain):
        raise _Fault("the embeddings do not reach the answer")
    if per_layer_table(model) is not None:
        return "reaches the answer; tables of each layer give memory what they give images"
    return _compare(found, expected, backbone.dtype)


def kv_fault(backbone: HFBackbone) -> str:
    """An item's keys and values in front of a question against the ordinary prompt of both.

    Layers that hold no memory do not see the item.

    Returns:
        What was found.

    Raises:
        ValueError: the answer is another one.
    """
    model, layers = backbone.model, memory_layers(backbone.model)
    item, question = _ids(backbone, _ITEM), _ids(backbone, _QUESTION)
    split, others = item.shape[1], [i for i in range(len(decoder_layers(model))) if i not in layers]
    with _blind(model, others, split):
        expected = _logits(model, _plain(torch.cat([item, question], dim=1)))[:, split:]
    memory = join(model, read_items(model, _plain(item), layers))
    with KeysValues().attach(model, {}, [memory]):
        found = _logits(model, _plain(question))
    if torch.equal(found, _logits(model, _plain(question))):
        raise _Fault("keys and values do not reach the answer")
    said = _compare(found, expected, backbone.dtype)
    return said if not others else f"{said}, in layers {', '.join(map(str, layers))}"


@contextmanager
def _blind(model: Any, layers: Sequence[int], split: int) -> Iterator[None]:
    """In these layers, positions from `split` on see nothing before it."""

    def hide(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs["attention_mask"].clone()
        mask[:, :, split:, :split] = torch.finfo(mask.dtype).min
        return args, {**kwargs, "attention_mask": mask}

    config = model.get_decoder().config
    before = config._attn_implementation
    with ExitStack() as stack:
        if layers:  # masks are written out in eager attention only
            config._attn_implementation = "eager"
            stack.callback(setattr, config, "_attn_implementation", before)
        for layer in layers:
            block = attention(model, layer)
            stack.callback(block.register_forward_pre_hook(hide, with_kwargs=True).remove)
        yield


def _packing(backbone: HFBackbone) -> str:
    model = backbone.model
    chats = [[Message("user", (text,))] for text in (_QUESTION, _ITEM)]
    inputs = with_positions(model, backbone.place(backbone.process(chats)))
    alone = [_logits(model, backbone.place(backbone.process([chat])))[0] for chat in chats]
    prepared = Prepared(model)
    with prepared, torch.no_grad():
        packed, rows = pack(inputs)
        forget_positions(model)
        found = model(**packed, segments=rows, use_cache=False).logits.float()[0]
    return _compare(found, torch.cat(alone), backbone.dtype)


def _sees(backbone: HFBackbone) -> str:
    chats = [[Message("user", (sample_image(shade=shade), "x"))] for shade in (10, 200)]
    first, second = (_logits(backbone.model, backbone.place(backbone.process([c])))[:, -1] for c in chats)
    moved = float((first - second).abs().max() / first.abs().max())
    if not moved > 0:
        raise _Fault("two images give the same answer")
    return f"another image moves the logits by {moved:.0e}"


def show_check(found: Checked, settings: BackboneCheckSettings) -> None:
    """Print the row that a model gets, and what it rests on."""
    marks = {True: "yes", False: "no", None: "-"}
    rows = [(f.ability, marks[f.works], f.says, f.remedy) for f in found.findings]
    print_table(("ability", "works", "found", "remedy"), rows, f"{found.spec.name} ({found.spec.family})")
    print_facts([("modes", ", ".join(found.modes()) or "none: it cannot be asked")])
    defaults = {field.name: field.default for field in fields(BackboneSpec)}
    facts = asdict(found.spec)
    told = {k: v for k, v in facts.items() if k not in ("rag", "declared", "source") and v != defaults[k]}
    given = ", ".join(f"{name}={value!r}" for name, value in told.items())
    print_line(f"as a row: BackboneSpec({given}, source={found.spec.source!r})")


def ask_before_use(backbone: Any, ability: str) -> None:
    """Refuse a model that nobody declared where the model itself shows that it cannot.

    Args:
        backbone: of any kind; a declared row is believed.
        ability: "soft prefix" or "keys and values".

    Raises:
        BackboneError: names the model, what was found and the remedy.
    """
    if backbone.spec.declared or not isinstance(backbone, HFBackbone):
        return
    ask = {"soft prefix": prefix_fault, "keys and values": kv_fault}[ability]
    found = _asked(ability, lambda: ask(backbone), "use baseline or rag")
    if not found.works:
        raise BackboneError(
            f"{backbone.spec.name}: {ability} was tried and does not hold ({found.says}); {found.remedy}. "
            f"comem backbone check {backbone.spec.source} says more"
        )
