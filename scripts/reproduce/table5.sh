#!/usr/bin/env bash
# The paper's Table 5: a text-only reader (Qwen2.5-Instruct) alone, with passages, and with a memory made for it.
#
# Usage: bash scripts/reproduce/table5.sh [--dry-run]      --dry-run prints the commands
#
#   MODEL    the text-only reader (default: the embedded model's language part, on the embedded world, small)
#   BASE     the model that reads the items in training (default: qwen2_5_vl_7b)
#   ENCODER  memory encoder for that reader (default: trained here, in OUTPUT/memory)
#   DATA     a folder for each benchmark, as comem toy benchmarks writes them: infoseek/, oven/
#   IMAGES   folder of the pictures; IMAGES_INFOSEEK, IMAGES_OVEN for one benchmark (default: DATA/images)
#   INDEX    made by comem index build (default: DATA/index); K: items a question (default: 10)
#   TRAIN    training records (default: made from configs/data/paper.yaml, in OUTPUT/data)
#   TITLES   made by comem oven index, for OVEN's score; STEPS: at most so many training steps
#   DECODING options of comem predict (default: --paper-sampling; on the embedded world greedy)
#   LIMIT    only so many questions of each benchmark; OUTPUT (default: runs/reproduce/table5)
#
# Example: MODEL=Qwen/Qwen2.5-7B-Instruct ENCODER=models/comem-llm DATA=data INDEX=wit-index bash scripts/reproduce/table5.sh --dry-run
set -euo pipefail
source "$(dirname "$0")/_common.sh"
own_encoder=${ENCODER:-}
prepare "$@"
ENCODER=$own_encoder
if [ -n "$embedded" ]; then
  reader=$OUTPUT/reader
  [ -f "$reader/config.json" ] || step "$comem" toy text-reader "$reader"
else
  reader=$MODEL TRAIN_CONFIG=$root/configs/train/text_reader.yaml
fi
if [ -z "$ENCODER" ]; then
  [ -n "$embedded" ] || MODEL=${BASE:-qwen2_5_vl_7b}
  training_data "$root/configs/data/paper.yaml"
  train memory "reader=$reader"
fi
MODEL=$reader
for mode in baseline rag comem; do
  for benchmark in infoseek oven_query oven_entity; do answer "$mode" "$benchmark" "$answers/$mode/$benchmark"; done
  link "$answers/$mode"
done
report
