#!/usr/bin/env bash
# Scores predictions on A-OKVQA by its official definition.
#
# Usage: bash scripts/evaluation/eval_aokvqa.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   aokvqa_v1p0_val.json
#
# Example: PREDICTIONS=runs/aokvqa/predictions.jsonl REFERENCES=aokvqa.json \
#   bash scripts/evaluation/eval_aokvqa.sh --output aokvqa.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation aokvqa aokvqa references/aokvqa.json "$@"
