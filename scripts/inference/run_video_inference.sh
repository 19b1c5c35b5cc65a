#!/usr/bin/env bash
# The embedded world of videos, whole: train the tiny model and its memory, write clips, answer, measure.
#
# Usage: bash scripts/inference/run_video_inference.sh [FOLDER] [SEED]
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
export PYTHONPATH=.
[ -d "$MODEL" ] || "$PYTHON" tools/video_world.py train "$FOLDER" --seed "$SEED"
[ -d "$DATA" ] || "$PYTHON" -m comem toy videos "$DATA" --lengths 8 16 32 64 128 --clips 12 --seed 1
"$PYTHON" -m comem predict --benchmark llava_video --data "$DATA" --mode video_memory \
    --model "$MODEL" --encoder "$MEMORY" --max-new-tokens 4 --output "$FOLDER/answers"
[ "$MODEL" != "$FOLDER/model" ] || "$PYTHON" tools/video_world.py measure "$FOLDER"
