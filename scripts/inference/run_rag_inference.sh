#!/usr/bin/env bash
# Answers questions with retrieved items, images and passages, in the prompt.
#
# Usage: bash scripts/inference/run_rag_inference.sh [OPTION…]      options: comem predict --help
#
#   MODEL      model folder, hub id or row of the backbone table   (default: toy, the embedded one)
#   BENCHMARK  infoseek, infoseek_filtered, oven_query, okvqa, cvqa, evqa, wikivqabench, mmmu, mathvista,
#              coco_caption, …, toy                                 (default: toy)
#   DATA       its file or folder  (default: from the hub; of toy: the embedded world, made in data/toy)
#   IMAGES     folder of its pictures; SPLIT: only this split
#   INDEX      made by comem index build; CONTEXTS: made by comem retrieve; K: items a question (3)
#   OUTPUT     the run folder; run the same command again to resume (default: runs/rag)
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct BENCHMARK=infoseek DATA=infoseek_val.jsonl IMAGES=oven \
#   INDEX=wit-index K=3 bash scripts/inference/run_rag_inference.sh
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_mode rag "$@"
