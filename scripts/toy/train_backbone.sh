#!/usr/bin/env bash
# Trains the embedded backbone from scratch (about half an hour on two cores) and measures it on unseen towns.
#   bash scripts/toy/train_backbone.sh [WORK_FOLDER [further options of python -m tools.toy.pretrain]]
# Run again after an interruption: it goes on from the last checkpoint in the work folder.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/../.."
work="${1:-runs/toy_backbone}"
shift || true
python="${PYTHON:-.venv/bin/python}"
weights=comem/toy/weights/backbone
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
"$python" -m tools.toy.pretrain --output "$work" "$@"
mkdir -p "$weights"
cp "$work"/model/* "$weights/"
cp "$work/log.jsonl" "$weights/training_log.jsonl"
"$python" -m tools.toy.measure --output "$weights/evaluation.json"
