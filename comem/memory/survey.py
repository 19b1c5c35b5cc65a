"""`comem backbone table`: every family that transformers loads, probed on a tiny model with random weights.

No hub is needed: a family's default config is made small, a tokenizer of bytes with a short chat template
stands in for its own, and the questions of `comem.memory.probe` are put to what comes out. Of image-text
families only the language side is run, as their processors need files; those that the tests build whole are
in docs/backbones.md's first table. A family that cannot be made small so says why; its real folder can be
asked all the same (`comem backbone check`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from comem.backbones.hf import HFBackbone
from comem.backbones.probe import looked_up
from comem.backbones.settings import BackboneTableSettings
from comem.backbones.specs import BACKBONES, BackboneSpec, auto_class
from comem.io.console import Progress, print_facts, quiet
from comem.io.files import JsonlAppender, read_jsonl, whole_file
from comem.memory.probe import Checked, examine

_ROWS, _WIDTH = 320, 32
_SMALL: Mapping[str, int] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "n_embed",
         "out_hidden_size", "word_embed_proj_dim", "projection_dim", "moe_intermediate_size",
         "shared_expert_intermediate_size"),
        _WIDTH,
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "decoder_ffn_dim",
         "encoder_ffn_dim", "intermediate_size_mlp", "shared_intermediate_size"),
        2 * _WIDTH,
    ),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "depth", "encoder_layers",
         "decoder_layers",
         "num_key_value_heads", "num_experts_per_tok", "moe_k"),
        2,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads",
         "attention_heads", "encoder_attention_heads", "num_experts", "num_local_experts",
         "n_routed_experts", "moe_num_experts"),
        4,
    ),
    **dict.fromkeys(
        ("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim", "mamba_n_heads",
         "mamba_num_heads", "n_mamba_heads", "mamba_d_head", "mamba_head_dim", "mamba_headdim",
         "mamba_d_state", "ssm_state_size", "state_size", "mamba_chunk_size", "chunk_size",
         "linear_key_head_dim",
         "linear_value_head_dim"),
        8,
    ),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_head_dim"), 16),
    **dict.fromkeys(
        ("mamba_n_groups", "n_groups", "mamba_ngroups", "num_mem_blocks", "linear_num_key_heads"), 1
    ),
    **dict.fromkeys(("lru_width", "mamba_d_ssm", "attention_hidden_size", "block_ff_dim"), _WIDTH),
    "linear_num_value_heads": 2,
    "vocab_size": _ROWS,
    "max_position_embeddings": 4096,
}  # fmt: skip
#: What is tried in turn: sizes that go together differ between families.
_VARIANTS: tuple[Mapping[str, int], ...] = (
    {},
    {"head_dim": 16},
    {"num_key_value_heads": 4},
    {"n_group": 1, "topk_group": 1},
    {"n_group": 1, "topk_group": 1, "num_key_value_heads": 4},
    {"num_kv_shared_layers": 0},
)
_MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8,
}  # fmt: skip
_LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4, "head_dim": None,
}  # fmt: skip
_GROUPED = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
#: Text families whose sizes only go together when the config is made; None leaves a size out.
_MADE: Mapping[str, Mapping[str, Any]] = {
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "granitemoehybrid": {
        **_MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 2, "num_experts_per_tok": 1,
        "shared_intermediate_size": 32,
    },
    "falcon_h1": {**_MAMBA, "mamba_n_heads": 4, "mamba_d_ssm": 32},
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2,
        "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "recurrent_gemma": {
        "lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 64
    },
    "zamba2": {
        "layer_types": ["mamba", "hybrid"], "num_mem_blocks": 1, "hybrid_layer_ids": [1], "n_mamba_heads": 8,
        "mamba_headdim": 8, "mamba_d_state": 8, "mamba_ngroups": 1, "chunk_size": 8,
    },
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"], "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "num_dense_layers": 1,
    },
    "deepseek_v2": {**_LATENT, **_GROUPED},
    "dots1": _GROUPED,
    "nemotron": {},
    "hrm_text": {},
}  # fmt: skip
_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers")
_SECONDS = 90.0
_NO_SKETCH = "no small model of it here"


@dataclass(frozen=True)
class Surveyed:
    """A family in one line.

    Attributes:
        family: `model_type`.
        sees: whether it is an image-text family.
        verdict: "works", "with limits", "not run" or "no".
        modes: that it can be run in.
        says: the limits, or why not.
    """

    family: str
    sees: bool
    verdict: str
    modes: tuple[str, ...] = ()
    says: str = ""


def survey(settings: BackboneTableSettings, progress: Progress = quiet) -> list[Surveyed]:
    """Probe every family of the installed transformers, and write the table.

    Families that the log already has are not asked again.
    """
    families = [family for family in _families() if not settings.families or family in settings.families]
    found = {row.family: row for row in _noted(settings.log)}
    with (
        progress("probing families", len(families), done=0, unit="families") as advance,
        JsonlAppender(settings.log) as log,
    ):
        for family in families:
            if family not in found:
                found[family] = _apart(family)
                log.write({**vars(found[family])})
            advance(1)
    rows = [found[family] for family in families]
    if settings.output is not None:
        _write(rows, settings.output)
    return rows


def _families() -> list[str]:
    from transformers.models.auto import modeling_auto as auto

    sees = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return sorted({*sees, *auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES})


def _noted(log: Path) -> Iterator[Surveyed]:
    if not log.is_file():
        return
    for row in read_jsonl(log, tolerate_torn_tail=True):
        yield Surveyed(**{**row, "modes": tuple(row["modes"])})


def _apart(family: str) -> Surveyed:
    """Probe a family in a process of its own, which may run out of time or memory."""
    sees = auto_class(family) == "AutoModelForImageTextToText"
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(family, sees, there), daemon=True)
    process.start()
    there.close()
    try:
        row = here.recv() if here.poll(_SECONDS) else None
    except EOFError:
        row = None
    if row is None:
        process.kill()
    process.join()
    return Surveyed(*row) if row else Surveyed(family, sees, "not run", (), "its default config is too large")


def _answer(family: str, sees: bool, pipe: Any) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            row = _probe(family, sees)
        except Exception as error:  # a family that was never met may raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            row = Surveyed(family, sees, "not run", (), f"{_NO_SKETCH}: {reason[:90]}")
    pipe.send(tuple(vars(row).values()))


def _probe(family: str, sees: bool) -> Surveyed:
    import transformers

    if (known := _declared(family, sees)) is not None:
        return known
    config = transformers.CONFIG_MAPPING[family]()
    if config.is_encoder_decoder:
        return Surveyed(family, sees, "no", (), "encoder and decoder: a prompt is no prefix of the answer")
    best, fault = None, _NO_SKETCH
    for variant in _VARIANTS:
        try:
            found = examine(_backbone(family, sees, {**_SMALL, **variant}))
        except Exception as error:  # the next sizes may do
            fault = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        works = {finding.ability: finding.works for finding in found.findings}
        best = found if best is None or works["answers"] else best
        if works["answers"] and works["batch = single"]:
            break
    if best is None:
        return Surveyed(family, sees, "not run", (), f"{_NO_SKETCH}: {fault[:90]}")
    return _verdict(family, sees, best)


def _verdict(family: str, sees: bool, found: Checked) -> Surveyed:
    faults = [f for f in found.findings if f.works is False and f.ability != "a free id"]
    says = {fault.ability: fault.says for fault in faults}
    if (why := says.get("answers")) is not None:  # it does not run at all
        needs_more = "required positional argument" in why or "pixel_values" in why
        why = why if needs_more else f"{_NO_SKETCH}: {why[:90]}"
        return Surveyed(family, sees, "no" if needs_more else "not run", (), why[:130])
    said = "; ".join(f"{ability}: {why[:70]}" for ability, why in says.items())
    return Surveyed(family, sees, "with limits" if faults else "works", found.modes(), said)


def _declared(family: str, sees: bool) -> Surveyed | None:
    """What the row says that the tests build whole, images included."""
    row = next((row for row in BACKBONES.values() if row.family == family and row.declared), None)
    if row is None or row.adapter:
        return None
    limits = [] if row.kv_memory else ["keys and values cannot stand in front"]
    limits += ["one image in a conversation"] if row.sees_images and not row.several_images else []
    modes = ("baseline", "rag", "comem", *(["vlm_as_memory"] if row.kv_memory else []))
    said = "; ".join([*limits, f"row `{row.name}`, run whole by the tests"])
    return Surveyed(family, sees, "with limits" if limits else "works", modes, said)


def _backbone(family: str, sees: bool, sizes: Mapping[str, int]) -> HFBackbone:
    import transformers

    if family in _MADE:
        config = transformers.CONFIG_MAPPING[family](**_made(family))
    else:
        config = transformers.CONFIG_MAPPING[family]()
        _shrink(config, sizes)
    torch.manual_seed(0)
    kind = "AutoModelForImageTextToText" if sees else "AutoModelForCausalLM"
    model = getattr(transformers, kind).from_config(config).float().eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
    model.generation_config.eos_token_id = None
    tokenizer = _bytes()
    spec = BackboneSpec(family, family, family, declared=False, model_class=kind)
    return HFBackbone(looked_up(spec, model, tokenizer), model, tokenizer)


def _made(family: str) -> dict[str, Any]:
    given = {
        "vocab_size": _ROWS, "hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "eos_token_id": 256,
        "pad_token_id": 256, "bos_token_id": None, **_MADE[family],
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None or name == "bos_token_id"}


def _shrink(config: Any, sizes: Mapping[str, int]) -> None:
    """Make a config small, its parts, too; where lists go by layers, every kind of layer stays."""
    for name, value in sizes.items():
        with contextlib.suppress(Exception):  # some sizes are of a layer, or follow from others
            if type(getattr(config, name, None)) is int or (name == "head_dim" and config.head_dim is None):
                setattr(config, name, value)
    layers = getattr(config, "num_hidden_layers", None)
    for number, (name, value) in enumerate(list(vars(config).items())):
        if hasattr(value, "model_type") and hasattr(value, "to_dict"):
            _shrink(value, sizes)
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int) and value >= _ROWS:
            setattr(config, name, _ROWS - 2 - number % 40)
        elif name in _LISTS and isinstance(value, list) and layers:
            kinds = list(dict.fromkeys(value)) if name != "no_rope_layers" else value
            setattr(config, name, (kinds * layers)[:layers])
        elif name == "rope_parameters" and isinstance(value, dict) and config.model_type != "deepseek_v4":
            partial = value.get("partial_rotary_factor", 1.0)
            value["mrope_section"] = [1, 1, 2] if partial == 1.0 else [1, 1, 0]


def _bytes() -> Any:
    """A tokenizer of single bytes with a short chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {character: byte for byte, character in bytes_to_unicode().items()}
    marks = ["<|end|>", "<|start|>"]
    vocabulary |= {mark: 256 + number for number, mark in enumerate(marks)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=marks[0], pad_token=marks[0], padding_side="left",
        extra_special_tokens=marks[1:],
    )  # fmt: skip
    tokenizer.chat_template = (
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    )
    return tokenizer


_BEGIN, _END = "<!-- families: comem backbone table -->", "<!-- end of families -->"


def _write(rows: list[Surveyed], path: Path) -> None:
    """Put the table between its marks in a Markdown file, or make the file of it alone."""
    import transformers

    text = path.read_text(encoding="utf-8") if path.is_file() else f"{_BEGIN}\n{_END}\n"
    if _BEGIN not in text or _END not in text:
        raise ValueError(f"{path}: has no place for the table: add the lines {_BEGIN} and {_END}")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    lines = [
        f"Made with transformers {transformers.__version__}, torch {torch.__version__.partition('+')[0]}.",
        "",
        "| kind | family | here | limits, or why not |", "|---|---|---|---|",
        *(_line(row) for row in rows),
    ]  # fmt: skip
    with whole_file(path) as temporary:
        body = f"{before}{_BEGIN}\n" + "\n".join(lines) + f"\n{_END}{after}"
        Path(temporary).write_text(body, encoding="utf-8")


def _line(row: Surveyed) -> str:
    kind, said = "image-text" if row.sees else "text", row.says.replace("|", "\\|").replace("\n", " ")
    return f"| {kind} | `{row.family}` | {row.verdict} | {said} |"


def show_survey(rows: list[Surveyed], settings: BackboneTableSettings) -> None:
    """Print how many families work, with which limits."""
    kinds = ("works", "with limits", "not run", "no")
    print_facts([(kind, str(sum(row.verdict == kind for row in rows))) for kind in kinds])
