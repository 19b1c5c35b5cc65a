#!/usr/bin/env bash
# Trains a video memory, stage 2: clips of one to three minutes, from where stage 1 ended.
#
# Usage: bash scripts/train/finetune_video_long.sh [KEY=VALUE…]
#
#   INIT    checkpoint of stage 1                 (default: the newest of runs/video-short)
#   MODEL   the model of stage 1: folder, hub id or row of the backbone table   (default: llava_onevision)
#   DATA    JSON list of LLaVA-Video-178K, or a YAML mixture of such lists
#           (default: data/toy-videos/questions.json, of the embedded world, made where it is missing)
#   VIDEOS  the folder that paths of videos start at             (default: each list's own)
#   STAGING readme or scripts; in both, memory and language model learn (video_stage.tune=lora: LoRA on it)
#   OUTPUT  the run folder; run the same command again to resume (default: runs/video-long)
#   CONFIG  recipe                                    (default: configs/train/video_long.yaml)
#   ACCELERATE_CONFIG  file of configs/accelerate/: train by `accelerate launch` on several GPUs, see
#           docs/several_gpus.md (not FSDP)                      (default: one process)
#   GPUS    how many, in place of that file's num_processes
#
# Example: INIT=runs/video-short/checkpoints/step-00002000 DATA=mixtures/long.yaml VIDEOS=LLaVA-Video-178K \
#   MODEL=llava-hf/llava-onevision-qwen2-0.5b-ov-hf bash scripts/train/finetune_video_long.sh
set -euo pipefail
source "$(dirname "$0")/_common.sh"
init=${INIT:-$(ls -d runs/video-short/checkpoints/step-* 2>/dev/null | tail -n 1 || true)}
[ -n "$init" ] || { echo "${0##*/}: no checkpoint of stage 1: give INIT, or run finetune_video_short.sh" >&2; exit 2; }
[ -n "${DATA:-}" ] || [ -f data/toy-videos/questions.json ] || "$comem" toy videos data/toy-videos
exec "${launch[@]}" train --config "${CONFIG:-$root/configs/train/video_long.yaml}" \
  "model=${MODEL:-llava_onevision}" "data=${DATA:-data/toy-videos/questions.json}" "init=$init" \
  ${VIDEOS:+"video_stage.videos=$VIDEOS"} "video_stage.staging=${STAGING:-readme}" \
  "output=${OUTPUT:-runs/video-long}" "$@"
