#!/usr/bin/env bash
# The whole method on the embedded world: index, retrieve, train, merge, encode, predict in three modes, score.
#
# Usage: bash scripts/quickstart.sh [--fast] [ARGUMENT…]      all arguments: comem quickstart --help
#
# About ten minutes on two cores, two with --fast; needs no GPU and, once installed, no network.
# --all-benchmarks: every benchmark, in its published format, in every mode; under fifteen minutes.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec .venv/bin/comem quickstart "$@"
