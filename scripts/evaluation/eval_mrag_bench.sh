#!/usr/bin/env bash
# Scores predictions on MRAG-Bench by its official definition.
#
# Usage: bash scripts/evaluation/eval_mrag_bench.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   rows {id, choices, gt_choice, scenario} (not needed where the predictions hold them)
#
# Example: PREDICTIONS=runs/mrag_bench/predictions.jsonl REFERENCES=mrag_bench.jsonl \
#   bash scripts/evaluation/eval_mrag_bench.sh --output mrag_bench.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation mrag_bench mrag_bench references/mrag_bench.jsonl "$@"
