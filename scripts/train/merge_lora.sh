#!/usr/bin/env bash
# Folds a training run's LoRA into a self-contained encoder folder (the Q-Former goes with it).
#
# Usage: bash scripts/train/merge_lora.sh [OPTION…]            options: comem merge --help
#
#   RUN   the training run's folder            (default: runs/train)
#   OUT   where the merged encoder is written  (default: $RUN/merged)
#
# Example: RUN=runs/7b OUT=models/comem-7b bash scripts/train/merge_lora.sh
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
root=$(cd "$(dirname "$0")/../.." && pwd)
comem=$root/.venv/bin/comem
[ -x "$comem" ] || comem=$(command -v comem) ||
  { echo "${0##*/}: comem is not installed yet; first run: bash scripts/setup.sh" >&2; exit 127; }
run=${RUN:-runs/train}
exec "$comem" merge "$run" "${OUT:-$run/merged}" "$@"
