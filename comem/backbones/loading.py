"""Models and processors of transformers, out of folders that strangers have made: the one way to load them.

Weights are read from safetensors only, whatever else lies there, and what is wrong with a folder is an error
that names it: transformers reads pickles where it finds nothing else, fills missing weights with random ones,
and raises errors of any kind on files that are not as it expects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from comem.backbones.specs import BackboneError
from comem.io.files import read_json
from comem.io.hub import hub_or_cache

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ADAPTER = "adapter_config.json"
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")


def load_model(
    source: str | Path, kind: str, attn: str | None = None, *, needs: str = "", **options: Any
) -> Any:  # fmt: skip
    """A model with all its weights, from safetensors.

    Args:
        source: a folder or a hub repository.
        kind: transformers' class, "AutoModelForImageTextToText".
        attn: "sdpa", "eager", …; None lets transformers choose.
        needs: a package beyond this project's that the model wants.
        options: of `from_pretrained`.

    Raises:
        BackboneError: the weights cannot be reached, are pickled, incomplete, or of another config; an
            attention that is not there; names the remedy.
    """
    import transformers

    source = str(source)
    check_attention(attn)
    try:
        with hub_or_cache(source):
            refuse_adapter(source)
            _refuse_pickled_shards(source)
            model, info = getattr(transformers, kind).from_pretrained(
                source, attn_implementation=attn, use_safetensors=True, output_loading_info=True, **options
            )
    except (torch.OutOfMemoryError, BackboneError):
        raise
    except Exception as error:  # transformers', of all kinds
        raise BackboneError(_reason(source, error, needs)) from error
    _check_complete(source, info)
    return model


def load_processor(
    source: str | Path, kind: str = "AutoProcessor", *, needs: str = "", **options: Any
) -> Any:  # fmt: skip
    """A processor, or a tokenizer where that is the kind; one without a pad token pads with its end token.

    Args:
        source: a folder or a hub repository.
        kind: transformers' class.
        needs: a package beyond this project's that it wants.
        options: of `from_pretrained`.

    Raises:
        BackboneError: it cannot be reached or read, or knows no text; names the remedy.
    """
    import transformers

    source = str(source)
    try:
        with hub_or_cache(source):
            processor = getattr(transformers, kind).from_pretrained(source, **options)
        tokenizer = getattr(processor, "tokenizer", processor)
        known = bool(tokenizer("a b", add_special_tokens=False)["input_ids"])
    except Exception as error:  # transformers', of all kinds
        raise BackboneError(_reason(source, error, needs)) from error
    if not known:
        raise BackboneError(f"{source}: the tokenizer knows no text: tokenizer.json is missing")
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise BackboneError(
                f"{source}: its tokenizer has neither a pad nor an end token: name a pad_token in"
                " tokenizer_config.json"
            )
        tokenizer.pad_token = substitute
    return processor


def load_model_config(source: str | Path) -> Any:
    """A model's config.

    Args:
        source: a folder or a hub repository.

    Raises:
        BackboneError: it cannot be reached or read; names the remedy.
    """
    import transformers

    try:
        with hub_or_cache(source):
            return transformers.AutoConfig.from_pretrained(source)
    except Exception as error:  # transformers', of all kinds
        raise BackboneError(_reason(str(source), error, "")) from error


def check_attention(attn: str | None) -> None:
    """Refuse the name of an attention that transformers does not have; kernels of the hub have a slash.

    Raises:
        BackboneError: names those that there are.
    """
    if attn is None or "/" in attn or attn in ATTENTIONS:
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if attn not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        raise BackboneError(f"attn {attn!r}: give one of {', '.join(ATTENTIONS)}, or leave it out")


def refuse_adapter(source: str) -> None:
    """transformers would apply a PEFT adapter that lies with a model, read from a pickle where it is one.

    Raises:
        BackboneError: one lies there.
    """
    if _file(source, _ADAPTER):
        raise BackboneError(
            f"{source}: a PEFT adapter lies there ({_ADAPTER}), which would change the model: merge it into"
            " its base (peft: merge_and_unload, save_pretrained) and give that folder, or take the file away"
        )


def _refuse_pickled_shards(source: str) -> None:
    """transformers reads the shards that an index names, of whatever kind they are."""
    if (index := _file(source, "model.safetensors.index.json")) is None:
        return
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (AttributeError, KeyError, TypeError) as error:
        raise BackboneError(f"{index}: no index of weights ({error}); copy the model folder again") from error
    odd = [name for name in names if not str(name).endswith(".safetensors")]
    if odd:
        raise BackboneError(
            f"{index}: names {odd[0]!r}, which is no safetensors file; weights are read from no other"
        )


def _file(source: str, name: str) -> Path | None:
    """A file of a model folder or a hub repository; None where it has none of this name."""
    if Path(source).is_dir():
        return path if (path := Path(source) / name).is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        source, name, _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_missing_entries=False,
    )  # fmt: skip
    return None if found is None else Path(found)


def _reason(source: str, error: Exception, needs: str) -> str:
    """Why a model is not to be had, and what helps."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, ImportError):
        remedy = f": pip install {needs}" if needs else ""
        remedy = ": pip install flash-attn, or take attn=sdpa" if "flash" in said.lower() else remedy
        return f"{source}: a package is missing ({said}){remedy}"
    if Path(source).is_dir():
        names = sorted(path.name for path in Path(source).iterdir())
        pickled = [name for name in names if name.endswith(_PICKLED)]
        if pickled and not any(name.startswith("model") and name.endswith(".safetensors") for name in names):
            return (
                f"{source}: only pickled weights ({pickled[0]}), which can run code when opened and are never"
                " loaded: convert them to model.safetensors where you trust them"
            )
        return f"{source}: the model folder is incomplete or damaged ({said}); copy it again"
    return (
        f"{source} cannot be loaded ({said}). Remedies: download it once with `hf download {source}` and set"
        " HF_HOME to the folder that holds its cache; give the path of a local model folder; or use the"
        " embedded model 'toy', which needs no download"
    )


def _check_complete(source: str, info: dict[str, Any]) -> None:
    """transformers fills missing weights with random ones, and goes on."""
    faults = sorted(map(str, [*info["missing_keys"], *info.get("mismatched_keys", ())]))
    if faults:
        raise BackboneError(
            f"{source}: {len(faults)} weights are missing or have another shape, {faults[0]} for one; "
            "the folder is half-written or belongs to another config: copy it again"
        )
