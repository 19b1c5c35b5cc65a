#!/usr/bin/env bash
# Trains the embedded CLIP from scratch (about 15 minutes on one core) and measures it.
#   bash scripts/toy/train_clip.sh [OUTPUT_FOLDER [further options of python -m tools.toy.clip train]]
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/../.."
output="${1:-comem/toy/weights/clip}"
shift || true
python="${PYTHON:-.venv/bin/python}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # one thread: the same sums on every machine
"$python" -m tools.toy.clip train --output "$output" "$@"
flags="../shared/data/flags/images"
if [ -d "$flags" ]; then
  "$python" -m tools.toy.clip card --output "$output" --flags "$flags"
else
  echo "no folder $flags: the card is written without the real flags" >&2
  "$python" -m tools.toy.clip card --output "$output"
fi
