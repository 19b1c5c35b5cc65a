#!/usr/bin/env bash
# Folds a training run's LoRA into a self-contained encoder folder (the Q-Former goes with it).
#
# Usage: bash scripts/train/merge_lora.sh [OPTION…] [--dry-run]   options: comem merge --help
#
#   RUN   the training run's folder            (default: runs/train)
#   OUT   where the merged encoder is written  (default: $RUN/merged)
#
# Example: RUN=runs/7b OUT=models/comem-7b bash scripts/train/merge_lora.sh
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run=${RUN:-runs/train}
exec "$comem" merge "$run" "${OUT:-$run/merged}" "$@"
