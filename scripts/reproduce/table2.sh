#!/usr/bin/env bash
# The paper's Table 2, without training: the model alone, RAG, and keys and values as memory (all, a quarter).
# FastV, a row of that table, is not built.
#
# Usage: bash scripts/reproduce/table2.sh [--dry-run]      --dry-run prints the commands
#
#   MODEL    model folder, hub id or row of the backbone table (default: toy, on the embedded world, small)
#   DATA     a folder for each benchmark, as comem toy benchmarks writes them: infoseek/, oven/, okvqa/, …,
#            references/ for the authors' scorers                (default: data/benchmarks)
#   IMAGES   folder of the pictures; IMAGES_INFOSEEK, IMAGES_OKVQA, … for one benchmark (default: DATA/images)
#   INDEX    made by comem index build (default: DATA/index); K: items a question (default: 10)
#   FRACTION of the items' tokens that is kept in the last row (default: 0.25)
#   DECODING options of comem predict (default: --paper-sampling; on the embedded world greedy)
#   LIMIT    only so many questions of each benchmark; OUTPUT (default: runs/reproduce/table2)
#
# Example: MODEL=qwen2_5_vl_7b DATA=data INDEX=wit-index bash scripts/reproduce/table2.sh --dry-run
set -euo pipefail
source "$(dirname "$0")/_common.sh"
prepare "$@"
for benchmark in infoseek okvqa aokvqa; do
  for mode in baseline rag vlm_as_memory; do answer "$mode" "$benchmark" "$answers/$mode/$benchmark"; done
  answer vlm_as_memory "$benchmark" "$answers/vlm_as_memory_top/$benchmark" --kv-fraction "${FRACTION:-0.25}"
done
report
