#!/usr/bin/env bash
# Asks uv whether this project, with all its extras, resolves beside the packages that people run it with.
# Only metadata is downloaded; nothing is installed.
#
# Usage: bash scripts/dev/resolve.sh [REQUIREMENT…]
#
#   REQUIREMENT  a package to resolve beside (default: vllm, sglang and lmms-eval, one after another)
#
# Settings from the environment:
#   PYTHONS  the Python versions to resolve for (default: "3.11 3.12 3.13"; vllm and sglang need 3.11)
#   UV       how uv is called                   (default: uv; pip install uv)
#   KEEP     a folder that keeps what was resolved (default: none)
#
# Example: PYTHONS=3.12 bash scripts/dev/resolve.sh vllm==0.33.0
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/../.."
uv=${UV:-uv}
"$uv" --version >/dev/null || { echo "resolve.sh: uv does not run; pip install uv, or set UV" >&2; exit 127; }
[ "$#" -gt 0 ] || set -- vllm==0.33.0 sglang==0.5.23 lmms-eval==0.7.3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
for neighbour in "$@"; do
  echo "$neighbour" >"$work/neighbour.in"
  for python in ${PYTHONS:-3.11 3.12 3.13}; do
    found=$work/${neighbour%%[=<>~]*}-$python.txt
    if "$uv" pip compile --quiet --python-version "$python" --all-extras pyproject.toml "$work/neighbour.in" \
      --output-file "$found" >"$work/log" 2>&1; then
      versions=$(grep -E '^(torch|torchvision|transformers|datasets|numpy|pillow)==' "$found" | tr '\n' ' ')
      echo "resolves: $neighbour, Python $python: $versions"
    else
      status=1
      echo "DOES NOT RESOLVE: $neighbour, Python $python"
      cat "$work/log"
    fi
  done
done
if [ -n "${KEEP:-}" ]; then mkdir -p "$KEEP" && cp "$work"/*.txt "$KEEP"; fi
exit "$status"
