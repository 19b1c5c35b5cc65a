#!/usr/bin/env bash
# Scores predictions on Encyclopedic-VQA: exact match; with JUDGE the official score, in which a BERT (BEM) judges the rest.
#
# Usage: bash scripts/evaluation/eval_evqa.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   test.csv
#   JUDGE        BEM's weights, made by comem convert (default: none, exact match alone)
#
# Example: PREDICTIONS=runs/evqa/predictions.jsonl REFERENCES=test.csv \
#   bash scripts/evaluation/eval_evqa.sh --output evqa.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
judge=()
[ -z "${JUDGE:-}" ] || judge=(--scorer bem --judge "$JUDGE")
run_evaluation evqa evqa evqa/test.csv "$@" ${judge[@]+"${judge[@]}"}
