#!/usr/bin/env bash
# Scores predictions on Encyclopedic-VQA by exact match: its official score without the BERT model that judges the rest (BEM).
#
# Usage: bash scripts/evaluation/eval_evqa.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   test.csv
#
# Example: PREDICTIONS=runs/evqa/predictions.jsonl REFERENCES=test.csv \
#   bash scripts/evaluation/eval_evqa.sh --output evqa.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation evqa evqa evqa/test.csv "$@"
