#!/usr/bin/env bash
# Answers questions with the best items as text and image and the others as continuous memory.
#
# Usage: bash scripts/inference/run_hybrid_inference.sh [OPTION…]      options: comem predict --help
#
#   MODEL      model folder, hub id or row of the backbone table   (default: toy, the embedded one)
#   BENCHMARK  infoseek, infoseek_filtered, oven_query, okvqa, cvqa, evqa, wikivqabench, mmmu, mathvista,
#              coco_caption, …, toy                                 (default: toy)
#   DATA       its file or folder  (default: from the hub; of toy: the embedded world, made in data/toy)
#   IMAGES     folder of its pictures; SPLIT: only this split
#   INDEX      made by comem index build; CONTEXTS: made by comem retrieve; K: items a question (3)
#   ENCODER    memory encoder folder; BANK: memories made by comem encode (default: toy, the embedded one)
#   BUDGET     context tokens that the items may take (default: no limit)
#   OUTPUT     the run folder; run the same command again to resume (default: runs/hybrid)
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct ENCODER=models/comem-7b BENCHMARK=infoseek DATA=infoseek_val.jsonl \
#   IMAGES=oven INDEX=wit-index bash scripts/inference/run_hybrid_inference.sh
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_mode hybrid "$@"
