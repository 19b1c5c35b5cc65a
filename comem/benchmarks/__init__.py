"""The registry of benchmarks: a row says where the data is, how to ask and how to score."""

from __future__ import annotations

from comem.benchmarks.base import Benchmark, Scorer, per_example
from comem.registry import Registry

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    {
        "infoseek": "comem.benchmarks.infoseek:INFOSEEK",
        "infoseek_bg": "comem.benchmarks.infoseek:INFOSEEK_BG",
        "infoseek_zh": "comem.benchmarks.infoseek:INFOSEEK_ZH",
        "infoseek_pt": "comem.benchmarks.infoseek:INFOSEEK_PT",
        "infoseek_ru": "comem.benchmarks.infoseek:INFOSEEK_RU",
        "infoseek_es": "comem.benchmarks.infoseek:INFOSEEK_ES",
        "infoseek_filtered": "comem.benchmarks.infoseek:INFOSEEK_FILTERED",
        "oven_entity": "comem.benchmarks.oven:OVEN_ENTITY",
        "oven_query": "comem.benchmarks.oven:OVEN_QUERY",
        "oven": "comem.benchmarks.oven:OVEN",
        "mrag_bench": "comem.benchmarks.mrag_bench:ROW",
        "okvqa": "comem.benchmarks.okvqa:ROW",
        "aokvqa": "comem.benchmarks.aokvqa:ROW",
        "viquae": "comem.benchmarks.viquae:ROW",
        "cvqa": "comem.benchmarks.cvqa:ROW",
        "evqa": "comem.benchmarks.evqa:ROW",
        "wikivqabench": "comem.benchmarks.wikivqabench:ROW",
        "mmmu": "comem.benchmarks.mmmu:ROW",
        "mathvista": "comem.benchmarks.mathvista:ROW",
        "coco_caption": "comem.benchmarks.coco:ROW",
        "longvideobench": "comem.benchmarks.video:LONGVIDEOBENCH",
        "videomme": "comem.benchmarks.video:VIDEOMME",
        "mlvu": "comem.benchmarks.video:MLVU",
        "nextqa": "comem.benchmarks.video:NEXTQA",
        "egoschema": "comem.benchmarks.video:EGOSCHEMA",
        "own": "comem.benchmarks.own:ROW",
        "llava_video": "comem.benchmarks.llava_video:ROW",
        "flags": "comem.benchmarks.infoseek:FLAGS",
        "toy": "comem.benchmarks.infoseek:TOY",
    },
)

__all__ = ["BENCHMARKS", "Benchmark", "Scorer", "per_example"]
