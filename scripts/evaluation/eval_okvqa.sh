#!/usr/bin/env bash
# Scores predictions on OK-VQA by its official definition.
#
# Usage: bash scripts/evaluation/eval_okvqa.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   mscoco_val2014_annotations.json
#
# Example: PREDICTIONS=runs/okvqa/predictions.jsonl REFERENCES=okvqa.json \
#   bash scripts/evaluation/eval_okvqa.sh --output okvqa.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation okvqa okvqa references/okvqa.json "$@"
