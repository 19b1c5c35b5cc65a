"""The reference of the benchmarks computes what this project computes, and costs what it is said to cost."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from authors_procedure import AuthorsProcedure

from comem.memory.injection import PREFIX
from comem.memory.lora import adapters_off, fold_lora, lora_state
from comem.memory.qformer_encoder import QFormerEncoder
from comem.profiling.bench import Bench


@pytest.fixture
def encoder(bench: Bench) -> QFormerEncoder:
    """Ours, on the bench's model, with a LoRA that changes what it reads."""
    made = bench.encoder()
    for name, tensor in lora_state(made.model).items():
        if ".lora_B." in name:
            tensor.normal_(std=0.02)
    return made


@pytest.fixture
def authors(bench: Bench, encoder: QFormerEncoder) -> AuthorsProcedure:
    merged = fold_lora(copy.deepcopy(encoder.model))
    reader = copy.deepcopy(bench.bare())
    bench.encoder()  # dressed again
    return AuthorsProcedure(merged, encoder.qformer, reader, tower="reader")


def test_memories_are_ours(bench: Bench, encoder: QFormerEncoder, authors: AuthorsProcedure) -> None:
    items = bench.maker.items(3)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        items[name] = F.pad(items[name], (5, 0))  # left padding, as with items of other lengths
    with torch.no_grad():
        ours = encoder(items)
    assert torch.allclose(authors.memory([items]), ours.flatten(0, 1)[None], atol=1e-5)
    batches = [bench.maker.items(1) for _ in range(3)]
    one_by_one = torch.cat([authors.memory([batch]) for batch in batches], dim=1)
    assert torch.equal(authors.memory(batches), one_by_one)
    assert torch.allclose(one_by_one, bench.encode(batches).flatten(0, 1)[None], atol=1e-5)
    with adapters_off(encoder.model), torch.no_grad():
        untuned = encoder.qformer(encoder.model.model(**items).last_hidden_state, items["attention_mask"])
    assert not torch.allclose(ours, untuned, atol=1e-3)  # the LoRA does something


def test_logits_are_ours(bench: Bench, authors: AuthorsProcedure) -> None:
    memory = authors.memory([bench.maker.items(2)])
    question = bench.maker.prompts(1)
    logits, _, position = authors.prefill(memory, question)
    with torch.no_grad(), PREFIX.attach(bench.bare(), question, [memory[0]]) as extended:
        ours = bench.model(**extended).logits
    assert logits.shape == ours.shape == (1, 16 + 12, 512)
    assert torch.allclose(logits, ours, atol=1e-5)
    assert position.flatten().tolist() == [16 + 1 + 2 + 7] * 3  # a mark, a picture of 2 × 2, a mark and words


def test_decoded_tokens_are_ours(bench: Bench, authors: AuthorsProcedure) -> None:
    items, question = [bench.maker.items(2)], bench.maker.prompts(1)
    seen: list[int] = []
    head = authors.encoder.lm_head.register_forward_hook(
        lambda m, a, out: seen.append(int(out[0, -1].argmax()))
    )
    run = authors.answer(items, question, 6)
    head.remove()
    memory = authors.memory(items)[0]
    bench.bare()
    ours = bench.decoding("transformers")(question, [memory], 6)
    assert seen == ours.ids[0].tolist() and run.tokens == 6


def test_what_it_costs(bench: Bench, authors: AuthorsProcedure) -> None:
    """Both output layers over the whole sequence, all layers' states, keys and values in every round."""
    rows: list[tuple[str, int]] = []
    for name, module in (
        ("encoder head", authors.encoder.lm_head),
        ("reader head", authors.reader.lm_head),
        ("keys", authors.qformer.layers[0].to_kv),  # type: ignore[index, union-attr]
    ):
        module.register_forward_hook(lambda m, args, out, name=name: rows.append((name, out.shape[-2])))
    authors.answer([bench.maker.items(1) for _ in range(2)], bench.maker.prompts(1), 2)
    length = 2 * 8 + bench.lengths.question
    depth = authors.qformer.config.depth
    keys = [("keys", bench.lengths.item), ("keys", 8)] * depth * 2
    heads = [("reader head", length), ("encoder head", length), ("reader head", 1), ("encoder head", 1)]
    assert rows == keys + heads
    own = {p.data_ptr() for p in authors.reader.parameters()} & {
        p.data_ptr() for p in authors.encoder.parameters()
    }
    assert not own  # two copies of the weights
