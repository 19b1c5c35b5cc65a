#!/usr/bin/env bash
# The paper's Table 4: InfoSeek in five languages, and CVQA.
#
# Usage: bash scripts/reproduce/table4.sh [--dry-run]      --dry-run prints the commands
#
#   MODEL    model folder, hub id or row of the backbone table (default: toy, on the embedded world, small)
#   DATA     a folder for each benchmark, as comem toy benchmarks writes them: infoseek/, oven/, okvqa/, …,
#            references/ for the authors' scorers                (default: data/benchmarks)
#   IMAGES   folder of the pictures; IMAGES_INFOSEEK, IMAGES_OKVQA, … for one benchmark (default: DATA/images)
#   INDEX    made by comem index build (default: DATA/index); K: items a question (default: 10)
#   ENCODER  memory encoder folder, made by comem merge or comem convert
#   MODES    (default: baseline rag comem)
#   DECODING options of comem predict (default: --paper-sampling; on the embedded world greedy)
#   LIMIT    only so many questions of each benchmark; OUTPUT (default: runs/reproduce/table4)
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct DATA=data INDEX=wit-index ENCODER=models/comem-7b bash scripts/reproduce/table4.sh --dry-run
set -euo pipefail
source "$(dirname "$0")/_common.sh"
prepare "$@"
for mode in ${MODES:-baseline rag comem}; do
  for benchmark in infoseek_zh infoseek_ru infoseek_es infoseek_pt infoseek_bg cvqa; do
    # The embedded passages are in six languages: the nearest of all would be one town, six times.
    own=()
    [ -z "$embedded" ] || [ "$mode" = baseline ] || own=(--languages own)
    answer "$mode" "$benchmark" "$answers/$mode/$benchmark" ${own[@]+"${own[@]}"}
  done
done
report
