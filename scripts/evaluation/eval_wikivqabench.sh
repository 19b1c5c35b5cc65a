#!/usr/bin/env bash
# Scores predictions on WikiVQABench: accuracy, letters or options' texts by VLMEvalKit's exact matching.
#
# Usage: bash scripts/evaluation/eval_wikivqabench.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   train-00000-of-00001.parquet, or its folder
#
# Example: PREDICTIONS=runs/wikivqabench/predictions.jsonl REFERENCES=WikiVQABench \
#   bash scripts/evaluation/eval_wikivqabench.sh --output wikivqabench.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation wikivqabench wikivqabench wikivqabench "$@"
