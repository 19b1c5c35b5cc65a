#!/usr/bin/env bash
# Scores predictions on ViQuAE by its official definition.
#
# Usage: bash scripts/evaluation/eval_viquae.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   test.jsonl
#
# Example: PREDICTIONS=runs/viquae/predictions.jsonl REFERENCES=test.jsonl \
#   bash scripts/evaluation/eval_viquae.sh --output viquae.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation viquae viquae viquae/test.jsonl "$@"
