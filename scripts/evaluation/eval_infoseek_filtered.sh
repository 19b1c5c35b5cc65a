#!/usr/bin/env bash
# Scores predictions on InfoSeek's filtered split (EchoSight's) by InfoSeek's official definition.
#
# Usage: bash scripts/evaluation/eval_infoseek_filtered.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   infoseek_test_filtered.csv, with infoseek_val.jsonl and infoseek_val_qtype.jsonl beside it
#
# Example: PREDICTIONS=runs/infoseek_filtered/predictions.jsonl REFERENCES=infoseek_test_filtered.csv \
#   bash scripts/evaluation/eval_infoseek_filtered.sh --output infoseek_filtered.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation infoseek_filtered infoseek infoseek/infoseek_test_filtered.csv "$@"
