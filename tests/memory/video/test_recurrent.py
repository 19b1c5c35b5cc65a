"""The recurrent memory: pure, explicit from the start, bounded as asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comem.memory.video.recurrent import EMPTY, MemoryState, VideoMemory, temporal_code
from comem.memory.video.sampling import memory_frames, shown_frames
from comem.memory.video.settings import VideoMemorySettings

SMALL = {"slots": 2, "heads": 2, "segment": 4, "kept": 4, "layers": 1}
WIDTH, GRID = 16, (2, 2)


def memory_of(**changes: object) -> VideoMemory:
    torch.manual_seed(0)
    return VideoMemory(VideoMemorySettings(**{**SMALL, **changes}), WIDTH, GRID)  # type: ignore[arg-type]


def segments(count: int, rows: int = 1, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 4, 4, WIDTH, generator=generator) for _ in range(count)]


def run(memory: VideoMemory, parts: list[Tensor], state: MemoryState = EMPTY) -> MemoryState:
    for part in parts:
        state = memory.step(state, part)
    return state


def test_a_step_changes_nothing_but_what_it_returns() -> None:
    memory, parts = memory_of(), segments(3)
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    first = run(memory, parts[:1])
    kept = first.states[0].clone()
    again = run(memory, parts[1:], first)
    assert torch.equal(first.states[0], kept) and first.segments == 1 and again.segments == 3
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())
    assert torch.equal(again.states[-1], run(memory, parts).states[-1])


def test_the_start_is_written_whatever_lay_in_memory() -> None:
    """V15: the authors' starts leave the first memory as it was allocated."""
    memory = memory_of(qformer=4, gated=True)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.fill_(float("nan"))
    memory.reset()
    drawn = {name: p for name, p in memory.named_parameters() if not name.startswith("qformer.latents")}
    assert all(torch.isfinite(p).all() for p in drawn.values())
    bound = (6 / (SMALL["slots"] * WIDTH + 4 * WIDTH)) ** 0.5  # type: ignore[operator]
    assert 0.5 * bound < float(memory.initial.detach().abs().max()) <= bound
    assert 0.5 < float(memory.slot_code.detach().std()) < 1.5
    assert float(memory.evolve.query.weight.detach().std()) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_cache_is_bounded(count: int) -> None:
    memory = memory_of(cache=3)
    state = run(memory, segments(count))
    assert len(state.states) == min(count, 3) and state.segments == count
    everything = run(memory_of(cache=0), segments(count))
    assert len(everything.states) == count


def test_merging_keeps_every_segment_counted_and_is_alone_what_it_is_in_company() -> None:
    memory = memory_of(cache=3, evict="merge")
    both = segments(7, rows=2)
    state = run(memory, both)
    assert len(state.states) == 3 and [sum(row) for row in state.counts] == [7, 7]
    for row in range(2):
        alone = run(memory, [part[row : row + 1] for part in both])
        assert alone.counts == state.row(row).counts
        for one, other in zip(alone.states, state.row(row).states, strict=True):
            assert torch.allclose(one, other, atol=1e-6)


def test_gradients_flow_through_the_whole_cache_also_when_recomputed() -> None:
    memory, parts = memory_of(), segments(3)
    found = []
    for recompute in (False, True):
        first = parts[0].clone().requires_grad_(True)
        state = memory.step(EMPTY, first, recompute)
        for part in parts[1:]:
            state = memory.step(state, part, recompute)
        memory.read(state).square().sum().backward()  # type: ignore[no-untyped-call]
        assert first.grad is not None and float(first.grad.abs().max()) > 0
        found.append(first.grad)
    assert torch.allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "vectors"),
    [({}, 8), ({"pool": 1}, 2), ({"pool": 2}, 8), ({"qformer": 3, "qformer_heads": 2}, 3)],
)
def test_what_is_read_of_a_state(changes: dict[str, int], vectors: int) -> None:
    memory = memory_of(**changes)
    assert memory.vectors == vectors
    assert memory.read(run(memory, segments(2))).shape == (1, 2 * vectors, WIDTH)


def test_a_gated_memory_starts_closed_and_learns_to_open() -> None:
    memory = memory_of(gated=True)
    read = memory.read(run(memory, segments(2)))
    assert memory.closed and float(read.detach().abs().max()) == 0
    read.sum().backward()  # type: ignore[no-untyped-call]
    assert memory.gate.grad is not None and float(memory.gate.grad) != 0


def test_only_the_code_of_place_tells_moved_patches_apart() -> None:
    part = segments(1)[0]
    moved = part.flip(2)
    for space, same in ((False, True), (True, False)):
        memory = memory_of(space=space)
        for each in memory.layers.parameters():
            each.data.mul_(20)  # attention far from even
        one, other = (memory.step(EMPTY, each).states[0] for each in (part, moved))
        assert torch.allclose(one, other, atol=1e-5) is same


def test_the_temporal_code_has_no_end() -> None:
    code = temporal_code(torch.tensor([0, 599, 600, 86_400]), WIDTH)
    assert code.shape == (4, WIDTH) and torch.isfinite(code).all()
    assert code[0].tolist() == [0.0, 1.0] * (WIDTH // 2)


@pytest.mark.parametrize(("count", "frames"), [(1, 1), (31, 31), (32, 64), (63, 64), (64, 64), (100, 96)])
def test_frames_of_segments(count: int, frames: int) -> None:
    index = memory_frames(count)
    assert len(index) == frames and int(index[-1]) == count - 1 and bool((index.diff() >= 0).all())
    assert memory_frames(count, fill="tail").tolist() == list(range(count))
    assert len(shown_frames(frames)) == min(32, frames)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slots": 0}, "slots=0"),
        ({"evict": "newest"}, "known: oldest, merge"),
        ({"cache": 1, "evict": "merge"}, "two states"),
        ({"pool": 2, "qformer": 8}, "one of them"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VideoMemorySettings(**changes)  # type: ignore[arg-type]


def test_sizes_that_do_not_fit_a_model() -> None:
    with pytest.raises(ValueError, match="multiple of video.heads=3"):
        memory_of(heads=3)
    with pytest.raises(ValueError, match="patches only"):
        memory_of(pool=5)
    with pytest.raises(ValueError, match="without frames"):
        memory_frames(0)
