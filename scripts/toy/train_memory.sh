#!/usr/bin/env bash
# Trains the embedded memory ahead, longer than the quickstart does (about 35 minutes on one core), and measures it
# on unseen towns.
#   bash scripts/toy/train_memory.sh [WORK_FOLDER [key=value settings of comem train]]
# First dialogues about one town in English, then about one to three in six languages. Run again after an
# interruption: it goes on.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/../.."
work="${1:-runs/toy_memory}"
shift || true
python="${PYTHON:-.venv/bin/python}"
weights=comem/toy/weights/memory
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
train=("$python" -m comem train --config configs/train/toy.yaml)
"$python" -m comem toy dialogues "$work/one" --items 1 --turns 6 --languages en --count 12000
"$python" -m comem toy dialogues "$work/some" --items 1 2 3 --count 16000 --seed 1
"${train[@]}" data="$work/one/dialogues.jsonl" output="$work/run_one" max_steps=800 "$@"
"$python" -m comem merge "$work/run_one" "$work/encoder_one" --adapter
"${train[@]}" data="$work/some/dialogues.jsonl" init="$work/encoder_one" output="$work/run_some" optim.lr=1.5e-3 "$@"
"$python" -m comem merge "$work/run_some" "$weights" --adapter
cat "$work"/run_{one,some}/metrics.jsonl > "$weights/training_log.jsonl"
"$python" -m tools.toy.measure --memory "$weights" --output "$weights/evaluation.json"
