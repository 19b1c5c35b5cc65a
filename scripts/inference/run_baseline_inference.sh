#!/usr/bin/env bash
# Answers questions with the backbone alone.
#
# Usage: bash scripts/inference/run_baseline_inference.sh [OPTION…]      options: comem predict --help
#
#   MODEL      model folder, hub id or row of the backbone table   (default: toy, the embedded one)
#   BENCHMARK  infoseek, infoseek_filtered, oven_query, okvqa, cvqa, evqa, wikivqabench, mmmu, mathvista,
#              coco_caption, …, toy                                 (default: toy)
#   DATA       its file or folder  (default: from the hub; of toy: the embedded world, made in data/toy)
#   IMAGES     folder of its pictures; SPLIT: only this split
#   OUTPUT     the run folder; run the same command again to resume (default: runs/baseline)
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct BENCHMARK=infoseek DATA=infoseek_val.jsonl IMAGES=oven \
#   bash scripts/inference/run_baseline_inference.sh --prompt paper
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_mode baseline "$@"
