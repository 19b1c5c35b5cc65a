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
  if [ "$mode" = comem ]; then
    [ -n "${ENCODER:-}${BANK:-}" ] || ENCODER=toy
    add --encoder "${ENCODER:-}"
    add --bank "${BANK:-}"
  fi
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
  local mode=$1 name embedded=
  shift
  case "${1:-}" in -h | --help) show_help; exit 0 ;; esac
  local data=${DATA:-} base=${OUTPUT:-runs/multilingual/$mode}
  if [ -z "$data${CVQA:-}" ]; then
    embedded=1
    embedded_benchmarks
    data=$DATA
  fi
  for name in ${BENCHMARKS:-infoseek_bg infoseek_zh infoseek_pt infoseek_ru infoseek_es cvqa}; do
    echo "== $name"
    local own=()
    [ -z "${PROMPT:-}" ] || own+=(--prompt "$PROMPT")
    # the embedded passages are in six languages: the nearest of all would be one town, six times
    if [ -n "$embedded" ] && [ "$mode" != baseline ] && [ "$name" != cvqa ]; then
      own+=(--languages "${name#infoseek_}")
    fi
    local source=$data contexts=
    [ "$name" != cvqa ] || source=${CVQA:-}  # empty: from the hub
    [ -z "${CONTEXTS:-}" ] || contexts=$CONTEXTS/$name.jsonl
    (BENCHMARK=$name DATA=$source CONTEXTS=$contexts OUTPUT=$base/$name run_mode "$mode" ${own[@]+"${own[@]}"} "$@")
  done
}
