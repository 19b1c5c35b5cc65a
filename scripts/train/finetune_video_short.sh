#!/usr/bin/env bash
# Trains a video memory, stage 1: clips up to a minute, every other step without frames.
#
# Usage: bash scripts/train/finetune_video_short.sh [KEY=VALUE…]
#
#   MODEL   model folder, hub id or row of the backbone table   (default: llava_onevision)
#   DATA    JSON list of LLaVA-Video-178K, or a YAML mixture of such lists
#           (default: data/toy-videos/questions.json, of the embedded world, made where it is missing)
#   VIDEOS  the folder that paths of videos start at             (default: each list's own)
#   STAGING readme (memory alone) or scripts (language model, too)   (default: readme)
#   OUTPUT  the run folder; run the same command again to resume (default: runs/video-short)
#   CONFIG  recipe                                    (default: configs/train/video_short.yaml)
#   ACCELERATE_CONFIG  file of configs/accelerate/: train by `accelerate launch` on several GPUs, see
#           docs/several_gpus.md (not FSDP)                      (default: one process)
#   GPUS    how many, in place of that file's num_processes
#
# Example: MODEL=llava-hf/llava-onevision-qwen2-0.5b-ov-hf DATA=mixtures/short.yaml VIDEOS=LLaVA-Video-178K \
#   bash scripts/train/finetune_video_short.sh max_steps=2000
set -euo pipefail
source "$(dirname "$0")/_common.sh"
[ -n "${DATA:-}" ] || [ -f data/toy-videos/questions.json ] || "$comem" toy videos data/toy-videos
exec "${launch[@]}" train --config "${CONFIG:-$root/configs/train/video_short.yaml}" \
  "model=${MODEL:-llava_onevision}" "data=${DATA:-data/toy-videos/questions.json}" \
  ${VIDEOS:+"video_stage.videos=$VIDEOS"} "video_stage.staging=${STAGING:-readme}" \
  "output=${OUTPUT:-runs/video-short}" "$@"
