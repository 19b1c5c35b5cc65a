#!/usr/bin/env bash
# Scores predictions on InfoSeek, or one of its translations, by its official definition.
#
# Usage: bash scripts/evaluation/eval_infoseek.sh [OPTION…]      options: comem evaluate --help
#
#   BENCHMARK       infoseek, infoseek_es, … (default: infoseek)
#   PREDICTIONS     predictions.jsonl of a run folder, or a file in the official form
#                   (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES      infoseek_val.jsonl, or the translation's
#   QUESTION_TYPES  infoseek_val_qtype.jsonl (without it, types are inferred)
#
# Example: PREDICTIONS=runs/infoseek/predictions.jsonl REFERENCES=infoseek_val.jsonl \
#   bash scripts/evaluation/eval_infoseek.sh --output infoseek.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
declare -A suffixes=([bg]=_bulgarian [zh]=_chinese [pt]=_portuguese [ru]=_russian [es]=_spanish)
BENCHMARK=${BENCHMARK:-infoseek}
language=${BENCHMARK#infoseek}
language=${language#_}
file=infoseek/infoseek_val${language:+${suffixes[$language]}}.jsonl
[ -n "${PREDICTIONS:-}" ] || QUESTION_TYPES=$world/infoseek/infoseek_val_qtype.jsonl
run_evaluation "$BENCHMARK" infoseek "$file" "$@"
