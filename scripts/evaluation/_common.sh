# Sourced by the eval_*.sh scripts: environment variables → options of `comem evaluate`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
comem=$root/.venv/bin/comem
case "${1:-}" in -h | --help) ;; *)  # help needs nothing installed
  [ -x "$comem" ] || comem=$(command -v comem) ||
    { echo "${0##*/}: comem is not installed yet; first run: bash scripts/setup.sh" >&2; exit 127; } ;;
esac
world=data/benchmarks

# The lines of the calling script's header.
show_help() { sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; }

# embedded BENCHMARK FOLDER: predictions of the embedded backbone alone, on the embedded world
embedded() {
  [ -f "$world/benchmarks.json" ] || "$comem" toy benchmarks "$world"
  "$comem" predict --benchmark "$1" --mode baseline --prompt bare --data "$world/$2" --images "$world/images" \
    --output "runs/evaluation/$1"
}

# run_evaluation BENCHMARK FOLDER REFERENCES [ARGUMENT…]; FOLDER and REFERENCES are the embedded world's
run_evaluation() {
  local benchmark=$1 folder=$2 references=$3
  shift 3
  case "${1:-}" in -h | --help) show_help; exit 0 ;; esac
  local options=()
  if [ -z "${PREDICTIONS:-}" ]; then
    embedded "$benchmark" "$folder"
    PREDICTIONS=runs/evaluation/$benchmark/predictions.jsonl REFERENCES=$world/$references
  fi
  [ -z "${REFERENCES:-}" ] || options+=(--references "$REFERENCES")
  [ -z "${QUESTION_TYPES:-}" ] || options+=(--question-types "$QUESTION_TYPES")
  exec "$comem" evaluate "$benchmark" --predictions "$PREDICTIONS" ${options[@]+"${options[@]}"} "$@"
}
