#!/usr/bin/env bash
# The paper's Table 3: eight benchmarks in English, by the model alone, by RAG and by memory.
#
# Usage: bash scripts/reproduce/table3.sh [--dry-run]      --dry-run prints the commands
#
#   MODEL    model folder, hub id or row of the backbone table (default: toy, on the embedded world, small)
#   DATA     a folder for each benchmark, as comem toy benchmarks writes them: infoseek/, oven/, okvqa/, …,
#            references/ for the authors' scorers                (default: data/benchmarks)
#   IMAGES   folder of the pictures; IMAGES_INFOSEEK, IMAGES_OKVQA, … for one benchmark (default: DATA/images)
#   INDEX    made by comem index build (default: DATA/index); K: items a question (default: 10)
#   ENCODER  memory encoder folder, made by comem merge or comem convert
#   MODES    (default: baseline rag comem); TITLES: made by comem oven index, for OVEN's score
#   DECODING options of comem predict (default: --paper-sampling; on the embedded world greedy)
#   LIMIT    only so many questions of each benchmark; OUTPUT (default: runs/reproduce/table3)
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct DATA=data INDEX=wit-index ENCODER=models/comem-7b TITLES=wiki6m bash scripts/reproduce/table3.sh --dry-run
set -euo pipefail
source "$(dirname "$0")/_common.sh"
prepare "$@"
for mode in ${MODES:-baseline rag comem}; do
  for benchmark in infoseek oven_query oven_entity mrag_bench okvqa aokvqa viquae; do
    answer "$mode" "$benchmark" "$answers/$mode/$benchmark"
  done
  link "$answers/$mode"
done
report
