"""A base in pieces on two CPU processes (gloo) against a whole one; see `launches` for the runs."""

from __future__ import annotations

import json

import pytest

from comem.memory.lora import LoraSettings, add_lora
from comem.memory.qformer_encoder import QFormerEncoder
from comem.training.ranks import shard, sharded, sharded_layers
from tests.conftest import build_tiny_qwen2_5_vl
from tests.training.processes import Runs, accelerate_environment, assert_same_training


def test_a_sharded_base_trains_as_a_whole_one(runs: Runs) -> None:
    """Steps with and without items, pictures and questions on either process, a broken picture among them."""
    assert runs.errors("sharded") == ["", ""]
    assert_same_training(runs, "sharded", "one")
    encoder = QFormerEncoder.load(runs.newest("sharded"))  # refuses another base
    about = json.loads((runs.newest("sharded") / "comem_encoder.json").read_text())
    assert encoder.fingerprint() == about["fingerprint"]


def test_killed_and_resumed_it_trains_as_undisturbed(runs: Runs) -> None:
    """With `kill -9` of one process; micro-batches, checkpointing and a generating evaluation besides."""
    (error,) = runs.errors("killed")  # process 1 left no note
    assert error.startswith("RuntimeError") or error.startswith("DistBackendError")
    assert runs.errors("resumed") == ["", ""]
    assert [len(share) for share in runs.ids("killed") + runs.ids("resumed")] == [5, 2, 2]
    assert_same_training(runs, "resumed", "one-micro")


def test_decoder_layers_and_vision_blocks_are_sharded() -> None:
    model = build_tiny_qwen2_5_vl()
    add_lora(model, LoraSettings(4, 8, 0.0))
    layers = sharded_layers(model)
    assert layers == [*model.model.visual.blocks, *model.model.language_model.layers]
    inside = {p for layer in layers for p in layer.parameters()}
    outside = [name for name, p in model.named_parameters() if p not in inside and not p.requires_grad]
    whole = ("lm_head.", "embed_tokens.", "language_model.norm.", "patch_embed.", "merger.")
    assert outside and all(any(part in name for part in whole) for name in outside), outside


def test_a_quantised_base_is_refused() -> None:
    model = build_tiny_qwen2_5_vl()
    model.is_quantized = True
    with pytest.raises(ValueError, match="base is quantised.*leave quantization empty.*multi_gpu.yaml"):
        shard(model)


def test_one_process_has_nothing_to_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not sharded()


def test_the_configs_differ_in_when_a_layer_is_freed() -> None:
    ours = {name: accelerate_environment(name) for name in ("fsdp2", "fsdp2_zero2")}
    assert ours["fsdp2"].pop("FSDP_RESHARD_AFTER_FORWARD") == "true"
    assert ours["fsdp2_zero2"].pop("FSDP_RESHARD_AFTER_FORWARD") == "false"
    assert ours["fsdp2"] == ours["fsdp2_zero2"] and ours["fsdp2"]["FSDP_VERSION"] == "2"
