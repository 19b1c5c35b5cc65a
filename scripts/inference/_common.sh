# Sourced by the run_*_inference.sh scripts: environment variables → options of `comem predict`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
comem=$root/.venv/bin/comem
[ -x "$comem" ] || comem=comem

# The lines of the calling script's header.
show_help() { sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; }

# Adds "--option VALUE" to the options unless the value is empty.
options=()
add() { [ -z "$2" ] || options+=("$1" "$2"); }

# The embedded world, where no other data is named: made once, in data/toy.
embedded_world() {
  local world=data/toy
  DATA=$world/test.jsonl SPLIT=${SPLIT:-unseen_entity} INDEX=${INDEX:-$world/index}
  [ -f "$world/world.json" ] || "$comem" toy build "$world"
  [ -f "$INDEX/index.json" ] || "$comem" index build --corpus "$world/wit.tsv.gz" --embedder toy --output "$INDEX"
}

# run_mode MODE [ARGUMENT…]
run_mode() {
  local mode=$1
  shift
  case "${1:-}" in -h | --help) show_help; exit 0 ;; esac
  [ -n "${DATA:-}" ] || embedded_world
  add --images "${IMAGES:-}"
  add --split "${SPLIT:-}"
  if [ "$mode" != baseline ]; then
    add --index "${INDEX:-}"
    add --contexts "${CONTEXTS:-}"
    add -k "${K:-}"
  fi
  if [ "$mode" = comem ]; then
    [ -n "${ENCODER:-}${BANK:-}" ] || ENCODER=toy
    add --encoder "${ENCODER:-}"
    add --bank "${BANK:-}"
  fi
  exec "$comem" predict --mode "$mode" --model "${MODEL:-toy}" --benchmark "${BENCHMARK:-toy}" \
    --data "$DATA" --output "${OUTPUT:-runs/$mode}" ${options[@]+"${options[@]}"} "$@"
}
