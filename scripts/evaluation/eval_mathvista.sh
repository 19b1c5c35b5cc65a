#!/usr/bin/env bash
# Scores predictions on MathVista by its official rules; answers are taken out of responses without a language model.
#
# Usage: bash scripts/evaluation/eval_mathvista.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   testmini.json, or the folder of the parquet files
#
# Example: PREDICTIONS=runs/mathvista/predictions.jsonl REFERENCES=testmini.json \
#   bash scripts/evaluation/eval_mathvista.sh --output mathvista.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation mathvista mathvista mathvista "$@"
