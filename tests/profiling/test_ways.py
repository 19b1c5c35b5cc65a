"""What is timed is the work it is said to be: counted, never timed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from comem.memory.lora import lora_layers
from comem.profiling.bench import ENGINES, WAYS, Bench
from comem.profiling.cost import context_tokens
from comem.profiling.timing import Cell


@contextlib.contextmanager
def counted(*modules: Any) -> Iterator[list[tuple[int, ...]]]:
    """The shapes that go into the modules."""
    shapes: list[tuple[int, ...]] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("inputs_embeds")
        shapes.append(tuple(given.shape))

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    yield shapes
    for handle in handles:
        handle.remove()


def calls(bench: Bench, cell: Cell) -> tuple[list[tuple[int, ...]], int, Any]:
    """Inputs of the language model, patches through the tower, and the run."""
    answer = WAYS[cell.mode](bench, cell)
    model = bench.model.model
    with counted(model.language_model) as text, counted(model.visual) as patches:
        run = answer(bench.lengths.answer)
    return text, sum(shape[0] for shape in patches), run


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", WAYS)
def test_forward_passes_and_patches(bench: Bench, mode: str, engine: str) -> None:
    cell = Cell(mode, 0 if mode == "baseline" else 5, 2, engine)
    text, patches, run = calls(bench, cell)
    prompt = bench.lengths.question + context_tokens(cell, bench.lengths)
    prefill = (1, 2 * prompt, 64) if engine == "comem" else (2, prompt, 64)  # the engine packs
    reading = [prefill, (2, 1, 64), (2, 1, 64)]
    encoding = [(1, 4 * 24, 64), (1, 4 * 24, 64), (1, 2 * 24, 64)]  # ten items, four a call, packed
    assert text == (encoding + reading if mode == "comem" else reading)
    assert patches == 2 * 16 + (10 * 64 if mode in ("rag", "comem") else 0)
    assert run.tokens == 3 and 0 < run.first_seconds < run.seconds
    parts = {"comem": {"encode"}, "comem-bank": {"read"}}.get(mode, set())
    assert set(run.parts) == parts | ({"prepare"} if engine == "comem" else set())


def test_the_model_wears_lora_only_while_an_encoder_is_in_the_loop(bench: Bench) -> None:
    names = [name for name, _ in bench.model.named_modules()]
    WAYS["comem"](bench, Cell("comem", 1, 1))
    assert lora_layers(bench.model)
    WAYS["comem-bank"](bench, Cell("comem-bank", 1, 1))
    assert not lora_layers(bench.model) and [name for name, _ in bench.model.named_modules()] == names
    WAYS["comem"](bench, Cell("comem", 1, 1))
    assert lora_layers(bench.model)


def test_memories_come_from_the_disk_every_time(bench: Bench) -> None:
    answer = WAYS["comem-bank"](bench, Cell("comem-bank", 3, 2))
    answer(2), answer(2)
    assert bench.memories(6).counts.read == 12 and bench.memories(6).counts.cached == 0
    folder = bench.memories(6).store.folder
    assert len(bench.memories(9)) == 9  # grows, and keeps what it has
    bench.__exit__()
    assert not folder.exists()


def test_engines_answer_alike_and_memory_changes_the_answer(bench: Bench) -> None:
    inputs, memory = bench.maker.prompts(2), torch.randn(16, 64)
    found = {}
    for name in ENGINES:
        bench.bare()
        decoding = bench.decoding(name)
        found[name] = [decoding(inputs, prefixes, 6).ids for prefixes in ([None, None], [memory, None])]
    for ours, theirs in zip(*found.values(), strict=True):
        assert ours.shape == (2, 6) and torch.equal(ours, theirs)
    plain, remembering = found["comem"]
    assert not torch.equal(plain[0], remembering[0]) and torch.equal(plain[1], remembering[1])


def test_nothing_of_encoder_or_engine_is_on_while_transformers_is_measured(bench: Bench) -> None:
    bench.encoder()
    bench.encode(bench.item_batches(1))
    bench.decoding("comem")(bench.maker.prompts(1), [None], 2)
    model = bench.bare()
    assert not any("forward" in vars(module) for module in model.modules())
    assert model.config.text_config._attn_implementation == "sdpa"
