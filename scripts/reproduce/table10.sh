#!/usr/bin/env bash
# The paper's Table 10, speed: 100 questions of six benchmarks, one at a time, by the model alone, RAG and memory.
# The report has seconds a question; whether the paper counts the encoder is not said: here it does (a bank leaves it
# out: BANK). comem profile measures the parts.
#
# Usage: bash scripts/reproduce/table10.sh [--dry-run]      --dry-run prints the commands
#
#   MODEL    model folder, hub id or row of the backbone table (default: toy, on the embedded world, small)
#   DATA     a folder for each benchmark, as comem toy benchmarks writes them: infoseek/, oven/, okvqa/, …,
#            references/ for the authors' scorers                (default: data/benchmarks)
#   IMAGES   folder of the pictures; IMAGES_INFOSEEK, IMAGES_OKVQA, … for one benchmark (default: DATA/images)
#   INDEX    made by comem index build (default: DATA/index); K: items a question (default: 10)
#   ENCODER  memory encoder folder, made by comem merge or comem convert
#   BANK     memories made by comem encode or comem bank build: nothing is encoded
#   DECODING options of comem predict (default: --paper-sampling; on the embedded world greedy)
#   LIMIT    only so many questions of each benchmark; OUTPUT (default: runs/reproduce/table10)
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct DATA=data INDEX=wit-index ENCODER=models/comem-7b bash scripts/reproduce/table10.sh --dry-run
set -euo pipefail
source "$(dirname "$0")/_common.sh"
prepare "$@"
LIMIT=${LIMIT:-100}
bank=()
[ -z "${BANK:-}" ] || bank=(--bank "$BANK")
for benchmark in infoseek oven_query mrag_bench okvqa aokvqa viquae; do
  for mode in baseline rag comem; do
    more=()
    [ "$mode" != comem ] || more=(${bank[@]+"${bank[@]}"})
    answer "$mode" "$benchmark" "$answers/$mode/$benchmark" --batch-size 1 ${more[@]+"${more[@]}"}
  done
done
report
