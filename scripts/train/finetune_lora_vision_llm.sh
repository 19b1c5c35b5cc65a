#!/usr/bin/env bash
# Trains the memory (LoRA on language model and vision tower, and the Q-Former) of a Qwen-VL for a frozen
# text-only reader, which sees a question's picture as a memory, too (docs/receivers.md).
#
# Usage: bash scripts/train/finetune_lora_vision_llm.sh [KEY=VALUE…] [--dry-run]
#
#   MODEL   the encoder's base: model folder, hub id or row of the backbone table
#                                            (default: toy, the embedded one)
#   READER  the text-only model that answers, named like MODEL   (default: qwen2_5, i.e. Qwen2.5-7B-Instruct,
#           when MODEL is given; else models/toy-text, the embedded model's language part, made where missing)
#   DATA    JSONL of questions, see comem/training/data.py    (default: data/toy-questions/dialogues.jsonl,
#           the embedded world's, made where it is missing)
#   OUTPUT  the run folder; run the same command again to resume (default: runs/train_llm)
#   CONFIG  recipe            (default: configs/train/toy.yaml, or text_reader.yaml when MODEL is given)
#   ACCELERATE_CONFIG  file of configs/accelerate/: train by `accelerate launch` on several GPUs, see
#           docs/several_gpus.md                      (default: one process)
#   GPUS    how many, in place of that file's num_processes
#
# Example: MODEL=Qwen/Qwen2.5-VL-7B-Instruct DATA=data/train.jsonl bash scripts/train/finetune_lora_vision_llm.sh max_items=3
set -euo pipefail
source "$(dirname "$0")/_common.sh"
config=${CONFIG:-$root/configs/train/$([ -n "${MODEL:-}" ] && echo text_reader || echo toy).yaml}
reader=${READER:-$([ -n "${MODEL:-}" ] && echo qwen2_5 || echo models/toy-text)}
[ -n "${DATA:-}" ] || [ -f data/toy-questions/dialogues.jsonl ] ||
  "$comem" toy dialogues data/toy-questions --turns 1 --languages en --entities 400
[ -n "${MODEL:-}${READER:-}" ] || [ -f models/toy-text/config.json ] || "$comem" toy text-reader models/toy-text
exec "${launch[@]}" train --config "$config" \
  "model=${MODEL:-toy}" "reader=$reader" "data=${DATA:-data/toy-questions/dialogues.jsonl}" \
  "output=${OUTPUT:-runs/train_llm}" "$@"
