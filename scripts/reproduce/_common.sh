# Sourced by the scripts of the paper's tables: variables, and commands that are printed before they run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
comem=$root/.venv/bin/comem
[ -x "$comem" ] || comem=comem
table=$(basename "$0" .sh)
dry='' embedded=''

# prepare [ARGUMENT…]: --help, --dry-run, and the embedded world where no MODEL is named
prepare() {
  local word
  for word in "$@"; do
    case $word in
      -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
      --dry-run) dry=1 ;;
      *) echo "$table.sh: $word is not known; --help, --dry-run" >&2; exit 2 ;;
    esac
  done
  [ -n "${MODEL:-}" ] || embedded=1
  if [ -n "$embedded" ]; then
    MODEL=toy ENCODER=${ENCODER:-toy} DATA=${DATA:-data/benchmarks} K=${K:-3} PROMPT=${PROMPT:-bare}
    TRAIN_CONFIG=${TRAIN_CONFIG:-$root/configs/train/toy.yaml} STEPS=${STEPS:-20}
  else
    DECODING=${DECODING---paper-sampling}
    TRAIN_CONFIG=${TRAIN_CONFIG:-$root/configs/train/paper.yaml}
  fi
  DATA=${DATA:-data/benchmarks} INDEX=${INDEX:-${DATA:-data/benchmarks}/index} K=${K:-10}
  OUTPUT=${OUTPUT:-runs/reproduce/$table}/$(basename "$MODEL")
  answers=$OUTPUT/answers
  [ -z "$embedded" ] || embedded_world
}

# The questions of the embedded world in every benchmark's format, with an index: made once.
embedded_world() {
  [ -f "$DATA/benchmarks.json" ] || step "$comem" toy benchmarks "$DATA"
  [ -f "$INDEX/index.json" ] ||
    step "$comem" index build --corpus "$DATA/wit.tsv.gz" --embedder toy --output "$INDEX"
}

# step WORD…: print a command; run it, unless this is a dry run
step() {
  local shown
  printf -v shown '%q ' "$@"
  echo "+ ${shown% }"
  [ -n "$dry" ] || "$@"
}

# folder BENCHMARK: its folder in DATA; all of InfoSeek's languages are in one, both sets of OVEN, too
folder() { case $1 in infoseek* | oven*) echo "${1%%_*}" ;; *) echo "$1" ;; esac; }

# answer MODE BENCHMARK OUTPUT [OPTION…]: ENCODER and K as they are at that moment
answer() {
  local mode=$1 benchmark=$2 output=$3 images
  shift 3
  images=IMAGES_$(folder "$benchmark" | tr '[:lower:]' '[:upper:]')
  images=${!images:-${IMAGES:-$DATA/images}}
  set -- "$@" --benchmark "$benchmark" --data "$DATA/$(folder "$benchmark")" --images "$images"
  [ -z "${PROMPT:-}" ] || set -- "$@" --prompt "$PROMPT"
  # shellcheck disable=SC2086 (several words)
  set -- "$@" ${DECODING:-}
  [ -z "${LIMIT:-}" ] || set -- "$@" --limit "$LIMIT"
  if [ "$mode" != baseline ]; then set -- "$@" --index "$INDEX" -k "$K"; fi
  if [ "$mode" = comem ]; then
    [ -n "${ENCODER:-}" ] || { echo "$table.sh: ENCODER is missing; see --help" >&2; exit 2; }
    set -- "$@" --encoder "$ENCODER"
  fi
  step "$comem" predict --mode "$mode" --model "$MODEL" --output "$output" "$@"
  paper_score "$benchmark" "$output"
}

# The printed numbers were computed by the authors' scorers: theirs, too, where the references are there.
paper_score() {
  local benchmark=$1 file
  case $benchmark in
    infoseek) file=$DATA/infoseek/infoseek_val.jsonl ;;
    viquae) file=$DATA/viquae/test.jsonl ;;
    okvqa | aokvqa) file=$DATA/references/$benchmark.json ;;
    *) return 0 ;;  # OVEN's are linked first; MRAG-Bench and CVQA compare officially
  esac
  [ -f "$file" ] || [ -n "$dry" ] || return 0
  step "$comem" evaluate "$benchmark" --scorer paper --predictions "$2/predictions.jsonl" \
    --references "$file" --output "$2/metrics_paper.json"
}

# link FOLDER: both sets of OVEN, in FOLDER/oven_query and FOLDER/oven_entity, by Wikidata ids
link() {
  if [ -n "$embedded" ]; then
    TITLES=$DATA/titles
    [ -d "$TITLES" ] ||
      step "$comem" oven index --titles "$DATA/oven/Wiki6M_ver_1_0_title_only.jsonl" --output "$TITLES"
  fi
  if [ -z "${TITLES:-}" ]; then
    echo "note: without TITLES (comem oven index) OVEN is scored by titles only, a lower bound"
    return
  fi
  step env QUERY="$1/oven_query" ENTITY="$1/oven_entity" TITLES="$TITLES" \
    REFERENCES_QUERY="$DATA/oven/oven_query_val.jsonl" REFERENCES_ENTITY="$DATA/oven/oven_entity_val.jsonl" \
    bash "$root/scripts/evaluation/eval_oven.sh" --output "$1/metrics_oven.json"
}

# train NAME [KEY=VALUE…]: one memory, in OUTPUT/training/NAME; as an adapter in OUTPUT/encoders/NAME, now ENCODER
train() {
  local name=$1 config=$TRAIN_CONFIG run=$OUTPUT/training/$1
  shift
  if [ -z "$embedded" ] && [ -f "$root/configs/train/ablations/$name.yaml" ]; then
    config=$root/configs/train/ablations/$name.yaml
    set --
  fi
  if [ -n "${STEPS:-}" ]; then set -- "$@" "max_steps=$STEPS"; fi
  step "$comem" train --config "$config" "model=$MODEL" "data=$TRAIN" "output=$run" "$@"
  ENCODER=$OUTPUT/encoders/$name
  [ -f "$ENCODER/comem_encoder.json" ] || step "$comem" merge "$run" "$ENCODER" --adapter
}

# training_data PLAN: TRAIN, or a training set made from a plan, in OUTPUT/data
training_data() {
  [ -z "${TRAIN:-}" ] || return 0
  local plan=$1
  set -- "model=$MODEL" "index=$INDEX"
  if [ -n "$embedded" ]; then
    plan=$root/configs/data/toy.yaml
    set -- index=data/toy/index sources.toy.candidates=60
    [ -f data/toy/world.json ] || step "$comem" toy build data/toy
    [ -f data/toy/index/index.json ] ||
      step "$comem" index build --corpus data/toy/wit.tsv.gz --embedder toy --output data/toy/index
  fi
  step "$comem" data build "$plan" "$@" --output "$OUTPUT/data"
  TRAIN=$OUTPUT/data/mixed/train.jsonl
}

# report: all runs of the table, beside the paper's numbers
report() { step "$comem" report "$answers" --output "$OUTPUT/report" --title "$table, $MODEL"; }
