"""BEM's weights: from the published SavedModel to a sequence classifier of transformers.

How padding is treated and which GELU the layers have, the SavedModel's variables do not say. Both are chosen
so that the notebook's printed score (comem.benchmarks.bem.PUBLISHED) comes out, and weights that do not give
it are refused.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comem.benchmarks.bem import FACTS, PUBLISHED, Bem, Compared
from comem.compat.saved_model import is_saved_model, read_variables
from comem.io.files import new_folder, write_json

#: The printed score has to come out this exactly.
TOLERANCE = 1e-3
_LAYER = r"(?:^|.*/)(?:transformer/|encoder/)?layer_(\d+)/"
#: By transformers' name, what TensorFlow's models (Model Garden's, and BERT's own) call a variable.
_PARTS = {
    "bert.embeddings.word_embeddings.weight": r"word_embeddings(/embeddings)?",
    "bert.embeddings.position_embeddings.weight": r"position_embeddings?(/embeddings)?",
    "bert.embeddings.token_type_embeddings.weight": r"(type|token_type)_embeddings(/embeddings)?",
    "bert.embeddings.LayerNorm.weight": r"embeddings/(layer_norm|LayerNorm)/gamma",
    "bert.embeddings.LayerNorm.bias": r"embeddings/(layer_norm|LayerNorm)/beta",
    "bert.pooler.dense.weight": r"(pooler_transform|pooler/dense|pooler)/kernel",
    "bert.pooler.dense.bias": r"(pooler_transform|pooler/dense|pooler)/bias",
}
_HEADS = ("query", "key", "value")
_IN_LAYER = {
    **{f"attention.self.{name}": rf"(self_attention|attention/self)/{name}" for name in _HEADS},
    "attention.output.dense": r"(self_attention/attention_output|attention/output/dense)",
    "intermediate.dense": r"(intermediate|intermediate/dense)",
    "output.dense": r"(output|output/dense)",
}
_NORMS = {
    "attention.output.LayerNorm": r"(self_attention_layer_norm|attention/output/LayerNorm)",
    "output.LayerNorm": r"(output_layer_norm|output/LayerNorm)",
}
_OTHERS = re.compile(
    r"(^|/)(Adam|iter|learning_rate|decay|beta_\d|save_counter|global_step|m|v)(/|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class BemFindings:
    """What a SavedModel holds.

    Attributes:
        folder: the SavedModel.
        layers, width, heads: of the BERT.
        refusal: why it cannot be converted; "" when it can.
    """

    folder: Path
    layers: int
    width: int
    heads: int
    refusal: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """As it is printed."""
        size = f"{self.layers} layers of {self.width}, {self.heads} heads"
        return [("layout", "BEM, a SavedModel of TensorFlow"), ("model", f"BERT with two labels, {size}")]


def is_bem(folder: str | Path) -> bool:
    """Whether a folder is a SavedModel; the one that we read is BEM's."""
    return is_saved_model(folder)


def convert_bem(
    folder: Path, out: Path | None, vocabulary: str, published: tuple[Compared, float] = PUBLISHED
) -> tuple[BemFindings, tuple[str, ...]]:
    """Write a SavedModel's BERT as a folder of transformers, and check it by the published example.

    Args:
        folder: the SavedModel.
        out: the new folder; None only looks.
        vocabulary: a folder or hub id with BERT's `vocab.txt`; "" for the SavedModel's own assets.
        published: what was asked, and the score that it gave.

    Returns:
        What was found, and notes.

    Raises:
        ValueError: variables that are no such BERT, no vocabulary, or another score; names them.
    """
    state, heads = _state(read_variables(folder), folder)
    width = state["bert.pooler.dense.weight"].shape[0]
    layers = 1 + max(int(name.split(".")[3]) for name in state if ".layer." in name)
    found = BemFindings(folder, layers, width, heads)
    if out is None:
        return found, ()
    words = _vocabulary(folder, vocabulary)
    with new_folder(out) as place:
        shutil.copyfile(words, place / "vocab.txt")
        score, facts = _chosen(state, found, place, published)
        if abs(score - published[1]) > TOLERANCE:
            raise ValueError(
                f"{folder}: the published example scores {score:.6f}, not {published[1]:.6f} as printed; "
                "these are other weights, or another vocabulary: give that of bert-base-uncased"
            )
    return found, (f"the published example scores {score:.7f} (printed: {published[1]:.7f}); {facts}",)


def _chosen(
    state: Mapping[str, Tensor], found: BemFindings, place: Path, published: tuple[Compared, float]
) -> tuple[float, str]:
    """Write the model with the padding and GELU that come nearest to the printed score."""
    results = []
    for padding, gelu in product(("masked", "attended"), ("gelu_new", "gelu")):
        _write(state, found, place, gelu, padding)
        results.append((Bem(place).scores([published[0]])[0], padding, gelu))
    score, padding, gelu = min(results, key=lambda each: abs(each[0] - published[1]))
    _write(state, found, place, gelu, padding, score)
    return score, f"padding is {padding}, activation {gelu}"


def _write(
    state: Mapping[str, Tensor], found: BemFindings, place: Path, gelu: str, padding: str, score: float = 0.0
) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    embeddings = "bert.embeddings.{}_embeddings.weight"
    config = BertConfig(
        vocab_size=len(state[embeddings.format("word")]),
        hidden_size=found.width,
        num_hidden_layers=found.layers,
        num_attention_heads=found.heads,
        intermediate_size=len(state["bert.encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(state[embeddings.format("position")]),
        type_vocab_size=len(state[embeddings.format("token_type")]),
        hidden_act=gelu,
        num_labels=2,
    )
    model = BertForSequenceClassification(config)
    model.load_state_dict(dict(state), strict=False)  # what is missing was found before; position ids stay
    model.save_pretrained(str(place))
    write_json(place / FACTS, {"padding": padding, "published_example": score})


def _state(variables: Mapping[str, Any], folder: Path) -> tuple[dict[str, Tensor], int]:
    """Weights by transformers' names, and the number of heads.

    A third segment has no row in a table of two: TensorFlow's one-hot look-up adds nothing there
    (tf-models' OnDeviceEmbedding), so the row is zeros.
    """
    state: dict[str, Tensor] = {}
    heads, rest = 0, []
    for stored, value in variables.items():
        name = stored.removesuffix(":0").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
        target = _target(name)
        if target is None:
            rest.append((name, value))
            continue
        if target.endswith("self.query.weight") and value.ndim == 3:
            heads = value.shape[1]
        state[target] = _turned(target, torch.from_numpy(value.copy()).float())
    for name, value in rest:
        if value.ndim == 2 and value.shape[1] == 2:
            state["classifier.weight"] = torch.from_numpy(value.copy()).float().T.contiguous()
        elif value.shape == (2,):
            state["classifier.bias"] = torch.from_numpy(value.copy()).float()
        elif value.ndim and not _OTHERS.search(name):
            raise ValueError(f"{folder}: {name} {value.shape} belongs to no BERT that judges answers")
    if missing := _missing(state):
        there = ", ".join(list(variables)[:3]) or "no variables"
        raise ValueError(f"{folder}: no {', '.join(missing[:3])}; is it BEM? It has {there} …")
    segments = "bert.embeddings.token_type_embeddings.weight"
    if len(state[segments]) == 2:
        state[segments] = torch.cat([state[segments], torch.zeros_like(state[segments][:1])])
    return state, heads or state["bert.pooler.dense.weight"].shape[0] // 64


def _target(name: str) -> str | None:
    """Transformers' name of a variable; None for those that are found by their shape, or not needed."""
    if _OTHERS.search(name):
        return None
    if layer := re.match(_LAYER + "(.+)$", name):
        number, part = layer.groups()
        for target, pattern in (_IN_LAYER | _NORMS).items():
            kinds = (
                {"gamma": "weight", "beta": "bias"}
                if target in _NORMS
                else {"kernel": "weight", "bias": "bias"}
            )
            if found := re.fullmatch(f"{pattern}/({'|'.join(kinds)})", part):
                return f"bert.encoder.layer.{number}.{target}.{kinds[found.groups()[-1]]}"
        return None
    for target, pattern in _PARTS.items():
        if re.search(f"(^|/){pattern}$", name):
            return target
    return None


def _turned(target: str, value: Tensor) -> Tensor:
    """Kernels are `(in, out)`, or split by heads, `(in, heads, size)` and `(heads, size, out)`."""
    if target.endswith("bias"):
        return value.flatten()
    if value.ndim == 3:
        value = value.flatten(0, 1) if "attention.output" in target else value.flatten(1)
    return value.T.contiguous() if ".dense." in target or ".self." in target else value


def _missing(state: Mapping[str, Tensor]) -> list[str]:
    """What a whole model has, and this has not."""
    layers = {int(name.split(".")[3]) for name in state if ".layer." in name}
    wanted = [*_PARTS, "classifier.weight", "classifier.bias"]
    for layer, part, kind in product(
        range(max(layers, default=0) + 1), _IN_LAYER | _NORMS, ("weight", "bias")
    ):
        wanted.append(f"bert.encoder.layer.{layer}.{part}.{kind}")
    return [name for name in wanted if name not in state]


def _vocabulary(folder: Path, named: str) -> Path:
    """BERT's `vocab.txt`: in the named folder or on the hub, else among the SavedModel's assets."""
    if not named:
        if (own := folder / "assets" / "vocab.txt").is_file():
            return own
        raise ValueError(
            f"{folder} has no assets/vocab.txt: name BERT's vocabulary (--base bert-base-uncased)"
        )
    if Path(named).is_dir():
        if (given := Path(named) / "vocab.txt").is_file():
            return given
        raise ValueError(f"{named}: no vocab.txt; give the folder of bert-base-uncased")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(named, "vocab.txt"))
    except Exception as error:  # the hub and its HTTP library raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{named}: its vocab.txt cannot be fetched ({reason}); give a folder") from error
