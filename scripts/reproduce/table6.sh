#!/usr/bin/env bash
# The paper's Table 6: 4, 8, 16 and 24 embeddings an item, each trained, then answering InfoSeek.
#
# Usage: bash scripts/reproduce/table6.sh [--dry-run]      --dry-run prints the commands
#
#   MODEL    model folder, hub id or row of the backbone table (default: toy, on the embedded world, small)
#   DATA     a folder for each benchmark, as comem toy benchmarks writes them: infoseek/, oven/, okvqa/, …,
#            references/ for the authors' scorers                (default: data/benchmarks)
#   IMAGES   folder of the pictures; IMAGES_INFOSEEK, IMAGES_OKVQA, … for one benchmark (default: DATA/images)
#   INDEX    made by comem index build (default: DATA/index); K: items a question (default: 10)
#   TRAIN    training records (default: made from configs/data/paper.yaml, in OUTPUT/data)
#   QUERIES  (default: 4 8 16 24); STEPS: at most so many training steps each
#   DECODING options of comem predict (default: --paper-sampling; on the embedded world greedy)
#   LIMIT    only so many questions of each benchmark; OUTPUT (default: runs/reproduce/table6)
#
# Example: MODEL=qwen2_5_vl_7b DATA=data INDEX=wit-index TRAIN=runs/data/mixed/train.jsonl bash scripts/reproduce/table6.sh --dry-run
set -euo pipefail
source "$(dirname "$0")/_common.sh"
prepare "$@"
training_data "$root/configs/data/paper.yaml"
for queries in ${QUERIES:-4 8 16 24}; do
  train "queries_$queries" "qformer.num_queries=$queries"
  answer comem infoseek "$answers/queries_$queries/infoseek"
done
report
