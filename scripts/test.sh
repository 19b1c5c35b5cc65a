#!/usr/bin/env bash
# Checks the project: ruff, codespell, mypy, then the tests. Further arguments go to pytest.
#
# Usage: bash scripts/test.sh [PYTEST ARGUMENT…]       e.g. bash scripts/test.sh tests/memory -k bank
#
# Settings: COMEM_TEST_WORKERS  processes that share the tests (default 2), each with one thread
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/.."
bash scripts/setup.sh
bin=.venv/bin
# One thread a worker: tests at tiny size lose time to threads, and workers would compete for the cores.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# The default tests need no hub; a slip must fail at once, not wait for a network.
export HF_HUB_OFFLINE=1 MPLBACKEND=Agg

status=0
echo "test: ruff"
"$bin/ruff" check . || status=1
"$bin/ruff" format --check . || status=1
echo "test: codespell"
"$bin/codespell" || status=1
echo "test: mypy"
"$bin/mypy" || status=1
echo "test: pytest"
"$bin/python" -m pytest -n "${COMEM_TEST_WORKERS:-2}" "$@" || status=$?
[ "$status" -eq 0 ] || echo "test: failed, see above" >&2
exit "$status"
