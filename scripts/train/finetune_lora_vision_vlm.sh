#!/usr/bin/env bash
# Trains the memory (LoRA on language model and vision tower, and the Q-Former) for a frozen Qwen-VL.
#
# Usage: bash scripts/train/finetune_lora_vision_vlm.sh [KEY=VALUE…] [--dry-run]
#
#   MODEL   model folder, hub id or row of the backbone table   (default: toy, the embedded one)
#   DATA    JSONL of questions, see comem/training/data.py    (default:
#           data/toy-dialogues/dialogues.jsonl, of the embedded world, made where it is missing)
#   READER  another model that answers, named like MODEL         (default: MODEL itself, in one copy)
#   OUTPUT  the run folder; run the same command again to resume (default: runs/train)
#   CONFIG  recipe                  (default: configs/train/toy.yaml, or paper.yaml when MODEL is given)
#   ACCELERATE_CONFIG  file of configs/accelerate/: train by `accelerate launch` on several GPUs, see
#           docs/several_gpus.md                                 (default: one process)
#   GPUS    how many, in place of that file's num_processes
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct DATA=data/train.jsonl bash scripts/train/finetune_lora_vision_vlm.sh max_items=3
set -euo pipefail
source "$(dirname "$0")/_common.sh"
config=${CONFIG:-$root/configs/train/$([ -n "${MODEL:-}" ] && echo paper || echo toy).yaml}
[ -n "${DATA:-}" ] || [ -f data/toy-dialogues/dialogues.jsonl ] ||
  "$comem" toy dialogues data/toy-dialogues --entities 400
exec "${launch[@]}" train --config "$config" \
  "model=${MODEL:-toy}" "data=${DATA:-data/toy-dialogues/dialogues.jsonl}" "output=${OUTPUT:-runs/train}" \
  ${READER:+"reader=$READER"} "$@"
