#!/usr/bin/env bash
# Scores captions of COCO's pictures by BLEU and CIDEr; needs: pip install 'comem[captions]'.
#
# Usage: bash scripts/evaluation/eval_coco_caption.sh [OPTION…]      options: comem evaluate --help
#
#   PREDICTIONS  predictions.jsonl of a run folder, or a file in the official form
#                (default: made by the embedded backbone on the embedded world, in runs/evaluation)
#   REFERENCES   captions_val2014.json, dataset_coco.json, or the folder of the parquet files
#
# Example: PREDICTIONS=runs/coco_caption/predictions.jsonl REFERENCES=captions_val2014.json \
#   bash scripts/evaluation/eval_coco_caption.sh --output coco_caption.json
set -euo pipefail
source "$(dirname "$0")/_common.sh"
run_evaluation coco_caption coco coco/captions_val2014.json "$@"
