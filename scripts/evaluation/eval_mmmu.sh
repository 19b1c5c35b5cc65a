#!/usr/bin/env bash
# Scores predictions on MMMU by its official rules, over all and by subject.
#
# Usage: bash scripts/evaluation/eval_mmmu.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   answer_dict_val.json, or the folder of the parquet files
#
# Example: PREDICTIONS=runs/mmmu/predictions.jsonl REFERENCES=MMMU \
#   bash scripts/evaluation/eval_mmmu.sh --output mmmu.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation mmmu mmmu mmmu "$@"
