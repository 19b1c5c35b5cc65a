#!/usr/bin/env bash
# The paper's Table 12: a quarter to four times the data; a quarter to four times LoRA rank and Q-Former depth.
#
# Usage: bash scripts/reproduce/table12.sh [--dry-run]      --dry-run prints the commands
#
#   MODEL    model folder, hub id or row of the backbone table (default: toy, on the embedded world, small)
#   DATA     a folder for each benchmark, as comem toy benchmarks writes them: infoseek/, oven/, okvqa/, …,
#            references/ for the authors' scorers                (default: data/benchmarks)
#   IMAGES   folder of the pictures; IMAGES_INFOSEEK, IMAGES_OKVQA, … for one benchmark (default: DATA/images)
#   INDEX    made by comem index build (default: DATA/index); K: items a question (default: 10)
#   TRAIN    training records (default: made from configs/data/paper.yaml, in OUTPUT/data); TRAIN_2X, TRAIN_4X:
#            twice and four times as many (configs/data/paper_2x.yaml, paper_4x.yaml); without them those rows are
#            left out
#   STEPS    at most so many training steps each
#   DECODING options of comem predict (default: --paper-sampling; on the embedded world greedy)
#   LIMIT    only so many questions of each benchmark; OUTPUT (default: runs/reproduce/table12)
#
# Example: MODEL=qwen2_5_vl_7b DATA=data INDEX=wit-index TRAIN=a.jsonl TRAIN_2X=b.jsonl bash scripts/reproduce/table12.sh --dry-run
set -euo pipefail
source "$(dirname "$0")/_common.sh"
prepare "$@"
row() { train "$@"; answer comem infoseek "$answers/$1/infoseek"; }
training_data "$root/configs/data/paper.yaml"
row queries_8
row data_0.25x data_fraction=0.25
row data_0.5x data_fraction=0.5
whole=$TRAIN
for times in 2 4; do
  name=TRAIN_${times}X
  if [ -n "${!name:-}" ]; then
    TRAIN=${!name}
    row "data_${times}x"
    TRAIN=$whole
  else
    echo "note: $name is not set: the row data_${times}x is left out"
  fi
done
row size_0.25x lora.rank=4 lora.alpha=8 qformer.depth=2
row size_0.5x lora.rank=8 lora.alpha=16 qformer.depth=4
row size_2x lora.rank=32 lora.alpha=64 qformer.depth=16
row size_4x lora.rank=64 lora.alpha=128 qformer.depth=32
report
