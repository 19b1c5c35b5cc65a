#!/usr/bin/env bash
# Makes a training set: right answers of a model with retrieved items, some of them translated (the paper's 3.3).
#
# Usage: bash scripts/data/synthesise.sh [KEY=VALUE…] [--dry-run]      what there is to set: comem/data/build.py
#
#   PLAN    sources, targets, model, index, translation          (default: configs/data/toy.yaml, the embedded
#           world, made in data/toy; the paper's size: configs/data/paper.yaml)
#   MODEL   model folder, hub id or row of the backbone table    (default: the plan's)
#   INDEX   made by comem index build                            (default: the plan's)
#   OUTPUT  the folder; its mixed/train.jsonl is trained on; run the same command again to resume
#           (default: runs/data)
#
# Example: PLAN=configs/data/paper.yaml INDEX=wit-index OPENAI_API_KEY=… bash scripts/data/synthesise.sh --dry-run
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
root=$(cd "$(dirname "$0")/../.." && pwd)
comem=$root/.venv/bin/comem
[ -x "$comem" ] || comem=comem
settings=() options=()
for word in "$@"; do
  case $word in -*) options+=("$word") ;; *) settings+=("$word") ;; esac
done
if [ -z "${PLAN:-}" ]; then
  PLAN=$root/configs/data/toy.yaml
  case " ${options[*]-} " in
    *" --dry-run "*) ;;
    *)
      [ -f data/toy/world.json ] || "$comem" toy build data/toy
      [ -f data/toy/index/index.json ] ||
        "$comem" index build --corpus data/toy/wit.tsv.gz --embedder toy --output data/toy/index
      ;;
  esac
fi
exec "$comem" data build "$PLAN" ${MODEL:+"model=$MODEL"} ${INDEX:+"index=$INDEX"} ${settings[@]+"${settings[@]}"} \
  --output "${OUTPUT:-runs/data}" ${options[@]+"${options[@]}"}
