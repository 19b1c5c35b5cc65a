#!/usr/bin/env bash
# CoMemo's three stages on the embedded world, from nothing: data and model, each stage from the one before, merged.
#   bash scripts/toy/train_comemo.sh [--fast] [WORK_FOLDER [further settings of comem train]]
# Takes minutes on one core; --fast, three small steps a stage, only shows that it runs. After each stage 40
# conversations about other towns are asked. Run again after an interruption: it goes on where it was.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/../.."
own=(eval_examples=40)
count=2000
if [ "${1:-}" = --fast ]; then
  own=(max_steps=3 save_every=1 batch_size=2 eval_examples=2)
  count=20
  shift
fi
work="${1:-runs/toy_comemo}"
shift || true
python="${PYTHON:-.venv/bin/python}"
[ -d "$work/data/model" ] || "$python" -m comem toy comemo "$work/data" --count "$count" --test-count 40
init=()
for stage in 1 2 3; do
  "$python" -m comem train --config "comemo_toy_$stage" model="$work/data/model" data="$work/data/train.jsonl" \
    eval_data="$work/data/test.jsonl" output="$work/stage$stage" "${own[@]}" "${init[@]}" "$@"
  checkpoints=("$work/stage$stage/checkpoints/"step-*)
  init=("init=${checkpoints[-1]}")
done
[ -d "$work/merged" ] || "$python" -m comem merge "$work/stage3" "$work/merged"
echo "$work/merged: comem.load_backbone opens it"
