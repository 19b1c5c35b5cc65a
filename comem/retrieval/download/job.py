"""Downloading all images of a corpus, shard by shard; a second run fetches only what is missing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from comem.config import as_dict
from comem.io.console import Advance, Progress, quiet
from comem.io.files import JsonlAppender, read_json, read_jsonl, sweep, write_atomic, write_json
from comem.io.parallel import Engine, run_shards
from comem.io.run_folder import run_manifest
from comem.retrieval.corpus.rules import download_name
from comem.retrieval.download.addresses import PublicResolver
from comem.retrieval.download.fetch import Hosts, check_image, fetch
from comem.retrieval.download.settings import DownloadSettings, Fetched
from comem.retrieval.knowledge import ITEMS, KnowledgeBase

logger = logging.getLogger(__name__)

FOLDER, PLAN, MANIFEST = "downloads", "plan.json", "manifest.json"
SHARD_GROUPS = 10  # row groups of the corpus (1024 items each) whose images make a shard


@dataclass(frozen=True)
class Wanted:
    """An image to fetch: its URL, the path it gets, the width of the original (0: unknown).

    `fault` says why nothing may be written there.
    """

    url: str
    path: Path
    width: int
    fault: str = ""


def download_corpus(
    folder: str | Path, settings: DownloadSettings, *, engine: Engine = "local", workers: int = 2,
    progress: Progress = quiet,
) -> Counter[str]:  # fmt: skip
    """Fetches the images of a corpus folder into `images/`; a second call goes on.

    Every URL gets one line in `downloads/shard_N.jsonl` with what became of it. Images that are there
    and failures that are final are not asked for again; what may pass is, in the next run.

    Args:
        folder: of the corpus.
        settings: of the download.
        engine: "ray" divides the shards among workers, and the rate to each host with them.
        workers: of Ray.
        progress: shows how far it is.

    Returns:
        How many URLs ended how ("ok", "status 404", …), in all runs so far.

    Raises:
        KnowledgeBaseError: no corpus in the folder.
        StorageError: the disk is full; what is there stays.
    """
    folder = Path(folder)
    shards = plan_shards(folder)
    started = time.monotonic()
    with progress("downloading", unit="images") as advance:
        if engine == "local":  # in one go: what hosts have asked for holds on from shard to shard
            counts, fetched = download_shards(folder, range(shards), settings, advance)
        else:
            counts, fetched = _download_divided(folder, range(shards), settings, engine, workers, advance)
    if fetched:
        sweep(folder / "images", recursive=True)  # what killed workers left; by now nobody writes
    write_manifest(folder, settings, counts, fetched, time.monotonic() - started)
    return counts


def _download_divided(
    folder: Path, numbers: Sequence[int], settings: DownloadSettings, engine: Engine, workers: int,
    advance: Advance,
) -> tuple[Counter[str], int]:  # fmt: skip
    """Shard by shard by several workers, which together ask no host faster than one would."""
    share = min(workers, len(numbers)) or 1
    each = replace(settings, rate=settings.rate / share, connections=max(1, settings.connections // share))
    counts, fetched = Counter[str](), 0

    def job(number: int) -> Callable[[], tuple[Counter[str], int]]:
        return partial(download_shards, folder, [number], each)

    for _, (outcomes, asked) in run_shards(job, numbers, engine=engine, workers=workers):
        counts, fetched = counts + outcomes, fetched + asked
        advance(asked)
    return counts, fetched


def plan_shards(folder: Path) -> int:
    """The number of shards; records of another corpus in this folder are put out of the way."""
    base = KnowledgeBase(folder)
    plan = {"ids_sha256": base.manifest["ids_sha256"], "shard_groups": SHARD_GROUPS}
    path = folder / FOLDER / PLAN
    if path.is_file() and read_json(path) != plan:
        logger.warning("%s: the corpus has changed; images that are there are kept", folder)
        for record in (folder / FOLDER).glob("shard_*"):
            record.unlink()
    write_json(path, plan)
    return -(-len(base) // (SHARD_GROUPS * int(base.manifest["row_group"])))


def write_manifest(
    folder: Path, settings: DownloadSettings, counts: Counter[str], fetched: int, seconds: float
) -> None:
    """Who asked, how, and what came of it."""
    extra = {
        "user_agent": settings.user_agent, "settings": as_dict(settings), "pictures": dict(counts),
        "requests_of_this_run": fetched, "seconds_of_this_run": round(seconds, 1),
    }  # fmt: skip
    write_json(folder / FOLDER / MANIFEST, run_manifest(extra))


def download_shards(
    folder: Path,
    numbers: Sequence[int],
    settings: DownloadSettings,
    advance: Callable[[int], Any] = lambda n: None,
) -> tuple[Counter[str], int]:
    """Downloads some shards of the plan in this process.

    Returns:
        The outcomes of all their URLs, and how many were asked for now.
    """
    return asyncio.run(_download_shards(folder, numbers, settings, advance))


async def _download_shards(
    folder: Path, numbers: Sequence[int], settings: DownloadSettings, advance: Callable[[int], Any]
) -> tuple[Counter[str], int]:
    import aiohttp

    hosts, counts, asked = Hosts(settings), Counter[str](), 0
    resolver: Any = None if settings.allow_private else PublicResolver()
    connector = aiohttp.TCPConnector(limit=settings.concurrency, resolver=resolver)
    headers = {"User-Agent": settings.user_agent, "Accept": "image/*"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        for number in numbers:
            fresh = await _download_shard(session, folder, number, hosts, settings, advance)
            asked += fresh
            counts += Counter(each.reason for each in _record(folder, number).values())
    for reason in hosts.closed():
        logger.warning("%s", reason)
    return counts, asked


async def _download_shard(
    session: Any,
    folder: Path,
    number: int,
    hosts: Hosts,
    settings: DownloadSettings,
    advance: Callable[[int], Any],
) -> int:
    """One shard; its URLs wait for their hosts at the same time, so that a slow host holds up no other."""
    known = _record(folder, number)
    wanted = [each for each in _wanted(folder, number) if not _is_settled(each, known.get(each.url))]
    with JsonlAppender(_record_path(folder, number), durable=False) as record:

        async def one(each: Wanted) -> None:
            result = await _get(session, each, hosts, settings)
            record.write(asdict(result))
            advance(1)

        await _gather([one(each) for each in wanted])
    return len(wanted)


def _is_settled(wanted: Wanted, found: Fetched | None) -> bool:
    """Whether an earlier run has the image, or a failure that would come again."""
    if found is None:
        return False
    return wanted.path.is_file() if found.reason == "ok" else found.final


async def _get(session: Any, wanted: Wanted, hosts: Hosts, settings: DownloadSettings) -> Fetched:
    if wanted.fault:
        return Fetched(wanted.url, "out of reach", f"{wanted.path}: {wanted.fault}", final=False)
    if wanted.path.is_file():  # of another shard, of a run that was killed before it wrote, or the user's own
        found = await asyncio.to_thread(_there, wanted, settings)
        if found.reason == "ok" or not wanted.path.as_posix().endswith(download_name(wanted.url)):
            return found
    result, data = await fetch(session, wanted.url, wanted.width, hosts, settings)
    if data:
        await asyncio.to_thread(write_atomic, wanted.path, data)
    return result


def _there(wanted: Wanted, settings: DownloadSettings) -> Fetched:
    """What is known of an image that was there."""
    whole = replace(settings, max_side=0)
    return replace(check_image(wanted.url, wanted.path.read_bytes(), whole)[0], detail="was there")


async def _gather(jobs: list[Any]) -> None:
    """Runs all; the first error (a full disk, Ctrl-C) cancels the others."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _wanted(folder: Path, number: int) -> Iterator[Wanted]:
    """The images of a shard of items, each once."""
    import pyarrow.parquet as pq

    base = KnowledgeBase(folder)
    file = pq.ParquetFile(folder / ITEMS, memory_map=True)
    if "image_url" not in file.schema_arrow.names:
        return
    groups = range(number * SHARD_GROUPS, min((number + 1) * SHARD_GROUPS, file.num_row_groups))
    seen = set[str]()
    for group in groups:
        for row in file.read_row_group(group, columns=["image_url", "image", "width"]).to_pylist():
            if row["image_url"] and row["image"] and row["image_url"] not in seen:
                seen.add(row["image_url"])
                path, fault = base.place(row["image"])
                yield Wanted(row["image_url"], Path(path), row["width"] or 0, fault)


def _record_path(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"shard_{number:05d}.jsonl"


def _record(folder: Path, number: int) -> dict[str, Fetched]:
    """What became of each URL, the last word counting."""
    path = _record_path(folder, number)
    if not path.is_file():
        return {}
    return {row["url"]: Fetched(**row) for row in read_jsonl(path, tolerate_torn_tail=True)}
