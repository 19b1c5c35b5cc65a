#!/usr/bin/env bash
# The embedded world of videos, whole: train the tiny model and its memory, write clips, answer, measure.
#
# Usage: bash scripts/inference/run_video_inference.sh [FOLDER] [SEED]
#
#   MODEL, MEMORY  a model and its memory of your own; nothing is trained then
#   DATA           a LLaVA-Video-178K list or mixture, or its folder (default: FOLDER/clips, of the embedded world)
#   WORLD          shapes or towns (default: shapes)
#   SHORT          the part of the training's steps, e.g. 0.02 for a rehearsal (default: 1)
#   LENGTHS        frames of the clips that are measured (default: 8 16 32 64 128 256 512 1024)
#   CLIPS          of each length (default: 48)
#
# Example: MODEL=models/onevision MEMORY=models/memory DATA=clips \
#   bash scripts/inference/run_video_inference.sh runs/mine
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/../.."
FOLDER=${1:-runs/video-world} SEED=${2:-0}
PYTHON=${PYTHON:-.venv/bin/python}
MODEL=${MODEL:-$FOLDER/model} MEMORY=${MEMORY:-$FOLDER/memory} DATA=${DATA:-$FOLDER/clips}
world=(--world "${WORLD:-shapes}")
export PYTHONPATH=.
# a folder is whole when its last stage is: an interrupted training begins again
[ -e "$MODEL" ] && { [ "$MODEL" != "$FOLDER/model" ] || [ -f "$FOLDER/trained" ]; } ||
  { "$PYTHON" tools/video_world.py train "$FOLDER" --seed "$SEED" --short "${SHORT:-1}" "${world[@]}" &&
    touch "$FOLDER/trained"; }
[ -e "$DATA" ] || "$PYTHON" -m comem toy videos "$DATA" --lengths 8 16 32 --clips "${CLIPS:-12}" --seed 1
"$PYTHON" -m comem predict --benchmark llava_video --data "$DATA" --mode video_memory \
    --model "$MODEL" --encoder "$MEMORY" --max-new-tokens 4 --output "$FOLDER/answers"
[ "$MODEL" != "$FOLDER/model" ] || "$PYTHON" tools/video_world.py measure "$FOLDER" "${world[@]}" \
    --clips "${CLIPS:-48}" --lengths ${LENGTHS:-8 16 32 64 128 256 512 1024}
