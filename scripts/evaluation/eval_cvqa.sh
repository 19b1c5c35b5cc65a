#!/usr/bin/env bash
# Scores predictions on CVQA by its official definition.
#
# Usage: bash scripts/evaluation/eval_cvqa.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   the records as JSON lines, without pictures
#
# Example: PREDICTIONS=runs/cvqa/predictions.jsonl REFERENCES=cvqa.jsonl \
#   bash scripts/evaluation/eval_cvqa.sh --output cvqa.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation cvqa cvqa references/cvqa.jsonl "$@"
