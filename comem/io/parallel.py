"""Shards of a long job, done here one after the other or by the workers of a Ray cluster.

Each task writes its own shard, with its record last. So nothing is lost with a worker but the shard that it
was at: Ray gives it to another one, and what fails again and again is named at the end, beside all that is
finished. On several machines the package must be installed and the folder be shared.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, get_args

logger = logging.getLogger(__name__)

R = TypeVar("R")
Engine = Literal["local", "ray"]
STARTS = 4  # attempts
#: A loaded machine may take longer than Ray's half a minute to start its processes.
_PATIENCE = {"RAY_raylet_start_wait_time_s": "60", "RAY_USAGE_STATS_ENABLED": "0"}


class ShardsFailedError(ValueError):
    """Some shards could not be made; the others are finished."""


def run_shards(
    job: Callable[[int], Callable[[], R]], numbers: Sequence[int], *, engine: Engine = "local",
    workers: int = 2, gpus: float = 0.0, retries: int = 2,
) -> Iterator[tuple[int, R]]:  # fmt: skip
    """Does the job of every shard and yields what it returned, as each is finished.

    Args:
        job: number → what is to be done for this shard, with all that it needs: it may travel, so a
            function of a module with its arguments (`functools.partial`). Asked for just before it begins.
        numbers: of the shards.
        engine: "local": in this process, in order; "ray": by the cluster at RAY_ADDRESS, else by `workers`
            processes of this machine.
        workers: processes of Ray, where no cluster is given.
        gpus: of each worker; a fraction lets several share one.
        retries: how often a shard is begun again whose worker was killed.

    Raises:
        ShardsFailedError: after all others are done, with the first fault of those that failed ("ray").
        ImportError: Ray is not installed.
    """
    if engine == "local":
        for number in numbers:
            yield number, job(number)()
        return
    if engine != "ray":
        raise ValueError(f"engine {engine!r}: choose of {', '.join(get_args(Engine))}")
    if workers < 1:
        raise ValueError(f"workers = {workers}: at least 1")
    with _cluster(workers) as ray:
        yield from _run_on_ray(ray, job, numbers, workers, gpus, retries)


def _run_on_ray(
    ray: Any, job: Callable[[int], Callable[[], R]], numbers: Sequence[int], workers: int, gpus: float,
    retries: int,
) -> Iterator[tuple[int, R]]:  # fmt: skip
    """Few tasks wait at a time, so that an interruption has little to cancel."""
    task = ray.remote(_call).options(num_cpus=1, num_gpus=gpus, max_retries=retries)
    todo, running, faults = list(reversed(numbers)), dict[Any, int](), list[tuple[int, Exception]]()
    while todo or running:
        while todo and len(running) < 2 * workers:
            number = todo.pop()
            running[task.remote(job(number))] = number
        for reference in ray.wait(list(running), num_returns=1)[0]:
            number = running.pop(reference)
            try:
                result = ray.get(reference)
            except (ray.exceptions.RayError, ValueError, OSError) as error:
                logger.warning("shard %d: %s", number, _reason(error))
                faults.append((number, error))
                continue
            yield number, result
    if faults:
        names = ", ".join(str(number) for number, _ in sorted(faults, key=lambda fault: fault[0])[:10])
        raise ShardsFailedError(
            f"{len(faults)} of {len(numbers)} shards failed ({names}): {_reason(faults[0][1])}; the others"
            " are finished: run the same command again"
        ) from faults[0][1]


def _call(job: Callable[[], R]) -> R:
    return job()


def _reason(error: Exception) -> str:
    """What went wrong, without the traceback that Ray puts around it."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else ''}"


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Ray, connected to; a cluster of our own ends with the job, one that was there goes on."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ValueError("the engine 'ray' needs Ray: pip install 'comem[ray]'") from error

    mine = not ray.is_initialized()
    if mine:
        _start(ray, workers)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _start(ray: Any, workers: int) -> None:
    """Connects to the cluster at RAY_ADDRESS, or starts processes of this machine that end with this one.

    Ray gives its agent 15 seconds to start and cannot be told to wait longer: from a cold disk or on a busy
    machine the first attempt may fail, and the next one finds the files cached.
    """
    here: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
    options = {} if "RAY_ADDRESS" in os.environ else here
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
            return
        except Exception as error:  # Ray raises just that when its processes do not start in time
            ray.shutdown()
            if attempt == STARTS or "startup" not in str(error):
                raise ShardsFailedError(f"Ray does not start: {error}") from error
            logger.warning("Ray did not start in time (attempt %d of %d)", attempt, STARTS)
