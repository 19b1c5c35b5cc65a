#!/usr/bin/env bash
# The whole method on the embedded world: index, retrieve, train, merge, encode, predict in three modes, score.
#
# Usage: bash scripts/quickstart.sh [--fast] [ARGUMENT…]      all arguments: comem quickstart --help
#
# About ten minutes on two cores, two with --fast; needs no GPU and, once installed, no network.
# --all-benchmarks: every benchmark, in its published format, in every mode; under fifteen minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec .venv/bin/comem quickstart "$@"
