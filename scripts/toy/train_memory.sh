#!/usr/bin/env bash
# Trains the embedded memory ahead, longer than the quickstart does, and measures it on unseen towns.
#   bash scripts/toy/train_memory.sh [WORK_FOLDER [key=value settings of comem train]]
# First dialogues about one town, then about one to three. Run again after an interruption: it goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."
work="${1:-runs/toy_memory}"
shift || true
python="${PYTHON:-.venv/bin/python}"
weights=comem/toy/weights/memory
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
"$python" -m comem toy dialogues "$work/one" --items 1 --count 4000
"$python" -m comem toy dialogues "$work/some" --items 1 2 3 --count 12000
"$python" -m comem train --config configs/train/toy.yaml batch_size=12 epochs=1 \
  data="$work/one/dialogues.jsonl" output="$work/run_one" "$@"
"$python" -m comem merge "$work/run_one" "$work/encoder_one" --adapter
"$python" -m comem train --config configs/train/toy.yaml batch_size=12 epochs=1 optim.lr=1e-3 \
  data="$work/some/dialogues.jsonl" init="$work/encoder_one" output="$work/run_some" "$@"
"$python" -m comem merge "$work/run_some" "$weights" --adapter
"$python" -m comem.quickstart.measure --memory "$weights" --output "$weights/evaluation.json"
