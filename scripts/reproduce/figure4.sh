#!/usr/bin/env bash
# The paper's Figure 4: InfoSeek with 3 to 50 items, by RAG and by memory.
#
# Usage: bash scripts/reproduce/figure4.sh [--dry-run]      --dry-run prints the commands
#
#   MODEL    model folder, hub id or row of the backbone table (default: toy, on the embedded world, small)
#   DATA     a folder for each benchmark, as comem toy benchmarks writes them: infoseek/, oven/, okvqa/, …,
#            references/ for the authors' scorers                (default: data/benchmarks)
#   IMAGES   folder of the pictures; IMAGES_INFOSEEK, IMAGES_OKVQA, … for one benchmark (default: DATA/images)
#   INDEX    made by comem index build (default: DATA/index); K: items a question (default: 10)
#   ENCODER  memory encoder folder, made by comem merge or comem convert
#   ITEMS    (default: 3 10 20 30 40 50; on the embedded world 1 3 10)
#   DECODING options of comem predict (default: --paper-sampling; on the embedded world greedy)
#   LIMIT    only so many questions of each benchmark; OUTPUT (default: runs/reproduce/figure4)
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct DATA=data INDEX=wit-index ENCODER=models/comem-7b bash scripts/reproduce/figure4.sh --dry-run
set -euo pipefail
source "$(dirname "$0")/_common.sh"
prepare "$@"
[ -z "$embedded" ] || ITEMS=${ITEMS:-1 3 10}
for K in ${ITEMS:-3 10 20 30 40 50}; do
  for mode in rag comem; do answer "$mode" infoseek "$answers/$mode/items_$K"; done
done
report
