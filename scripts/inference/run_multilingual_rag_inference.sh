#!/usr/bin/env bash
# Answers InfoSeek's five translations and CVQA with retrieved items, images and passages, in the prompt.
#
# Usage: bash scripts/inference/run_multilingual_rag_inference.sh [OPTION…]      options: comem predict --help
#
#   MODEL       model folder, hub id or row of the backbone table   (default: toy, the embedded one)
#   DATA        folder of infoseek_val_spanish.jsonl …; CVQA: its parquet folder (default: from the hub)
#               (default without either: the embedded world, made in data/benchmarks)
#   IMAGES      folder of InfoSeek's pictures
#   INDEX       made by comem index build; CONTEXTS: folder of BENCHMARK.jsonl made by comem retrieve; K: items (3)
#   JOBS        so many at a time (default: 1; 2 on the embedded world)
#   BENCHMARKS  which ones (default: infoseek_bg infoseek_zh infoseek_pt infoseek_ru infoseek_es cvqa)
#   OUTPUT      a run folder for each lies in it (default: runs/multilingual/rag); run again to resume
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct DATA=infoseek IMAGES=oven INDEX=wit-index \
#   bash scripts/inference/run_multilingual_rag_inference.sh
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_multilingual rag "$@"
