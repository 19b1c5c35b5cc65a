# Sourced by the run_*_inference.sh scripts: environment variables → options of `comem predict`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
comem=$root/.venv/bin/comem
case "${1:-}" in -h | --help) ;; *)  # help needs nothing installed
  [ -x "$comem" ] || comem=$(command -v comem) ||
    { echo "${0##*/}: comem is not installed yet; first run: bash scripts/setup.sh" >&2; exit 127; } ;;
esac

# The lines of the calling script's header.
show_help() { sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; }

# Adds "--option VALUE" to the options unless the value is empty.
options=()
add() { [ -z "$2" ] || options+=("$1" "$2"); }

# The embedded world, where no other data is named: made once, in data/toy.
embedded_world() {
  local world=data/toy
  BENCHMARK=toy
  DATA=$world/test.jsonl SPLIT=${SPLIT:-unseen_entity} INDEX=${INDEX:-$world/index}
  [ -f "$world/world.json" ] || "$comem" toy build "$world"
  [ -f "$INDEX/index.json" ] || "$comem" index build --corpus "$world/wit.tsv.gz" --embedder toy --output "$INDEX"
}

# run_mode MODE [ARGUMENT…]
run_mode() {
  local mode=$1
  shift
  case "${1:-}" in -h | --help) show_help; exit 0 ;; esac
  # Without data, toy is the embedded world; other benchmarks come from the hub.
  [ -n "${DATA:-}" ] || [ "${BENCHMARK:-toy}" != toy ] || embedded_world
  add --data "${DATA:-}"
  add --images "${IMAGES:-}"
  add --split "${SPLIT:-}"
  if [ "$mode" != baseline ]; then
    add --index "${INDEX:-}"
    add --contexts "${CONTEXTS:-}"
    add -k "${K:-}"
  fi
  if [ "$mode" = comem ] || [ "$mode" = hybrid ]; then
    [ -n "${ENCODER:-}${BANK:-}" ] || ENCODER=toy
    add --encoder "${ENCODER:-}"
    add --bank "${BANK:-}"
  fi
  [ "$mode" != hybrid ] || add --budget "${BUDGET:-}"
  exec "$comem" predict --mode "$mode" --model "${MODEL:-toy}" --benchmark "${BENCHMARK:-toy}" \
    --output "${OUTPUT:-runs/$mode}" ${options[@]+"${options[@]}"} "$@"
}

# The embedded world's questions in every benchmark's format: made once, in data/benchmarks.
embedded_benchmarks() {
  local world=data/benchmarks
  DATA=$world/infoseek CVQA=$world/cvqa IMAGES=$world/images INDEX=${INDEX:-$world/index} PROMPT=${PROMPT:-bare}
  [ -f "$world/benchmarks.json" ] || "$comem" toy benchmarks "$world"
  [ -f "$INDEX/index.json" ] || "$comem" index build --corpus "$world/wit.tsv.gz" --embedder toy --output "$INDEX"
}

# run_multilingual MODE [ARGUMENT…]: InfoSeek's translations and CVQA, one run folder each
run_multilingual() {
  local mode=$1 name jobs=${JOBS:-1}
  shift
  case "${1:-}" in -h | --help) show_help; exit 0 ;; esac
  base=${OUTPUT:-runs/multilingual/$mode} embedded=
  if [ -z "${DATA:-}${CVQA:-}" ]; then
    embedded=1 jobs=${JOBS:-2}  # small models, most of whose time is starting up
    embedded_benchmarks
  fi
  mkdir -p "$base"
  local names=${BENCHMARKS:-infoseek_bg infoseek_zh infoseek_pt infoseek_ru infoseek_es cvqa}
  pids=() begun=() status=0
  for name in $names; do
    run_language "$mode" "$name" "$@" >"$base/$name.log" 2>&1 &
    pids+=($!) begun+=("$name")
    [ "${#pids[@]}" -lt "$jobs" ] || finish_jobs
  done
  finish_jobs
  return "$status"
}

# Waits for the runs under way and shows what they said; one that fails fails the script.
finish_jobs() {
  local i
  for i in "${!pids[@]}"; do
    echo "== ${begun[$i]} (log: $base/${begun[$i]}.log)"
    wait "${pids[$i]}" || status=1
    tr '\r' '\n' <"$base/${begun[$i]}.log" | grep -v '%|' || true  # without the progress bars
  done
  pids=() begun=()
}

# run_language MODE BENCHMARK [ARGUMENT…]: one of them, in a process of its own
run_language() {
  local mode=$1 name=$2
  shift 2
  BENCHMARK=$name OUTPUT=$base/$name
  [ "$name" != cvqa ] || DATA=${CVQA:-}  # empty: from the hub
  [ -z "${CONTEXTS:-}" ] || CONTEXTS=$CONTEXTS/$name.jsonl
  add --prompt "${PROMPT:-}"
  # The embedded passages are in six languages: the nearest of all would be one town, six times.
  if [ -n "$embedded" ] && [ "$mode" != baseline ]; then add --languages own; fi
  run_mode "$mode" "$@"
}
