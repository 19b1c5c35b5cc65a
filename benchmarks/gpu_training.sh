#!/usr/bin/env bash
# The training options that need a GPU, each tried: short runs of the embedded memory with Liger's kernels, on a base in
# 4 bits and with FSDP2 on one process, whose losses should be those of the plain run; then steps at Qwen2.5-VL-7B's
# shapes with Liger and in 4 bits. Needs liger-kernel and bitsandbytes; takes about four minutes.
#   bash benchmarks/gpu_training.sh [OUTPUT_FOLDER]
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/.."
out="${1:-runs/gpu_training}"
python="${PYTHON:-python}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m comem toy dialogues "$work/data" --items 1 2 3 --count 600 --entities 200 --views 2 > /dev/null
settings=(--config configs/train/toy.yaml data="$work/data/dialogues.jsonl" max_steps=20 precision=bf16 save_every=0)

try() { # NAME COMMAND...: its losses, or why not
  local name=$1
  shift
  if "$@" output="$work/$name" > "$work/$name.log" 2>&1; then
    cp "$work/$name/metrics.jsonl" "$out/$name.jsonl"
    "$python" - "$name" "$out/$name.jsonl" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[2]) if '"loss"' in line]
losses = [row["loss"] for row in rows]
print(f"{sys.argv[1]:10} loss {sum(losses) / len(losses):.4f}, first {losses[0]:.4f}, last {losses[-1]:.4f}, "
      f"{len(losses)} steps, {sorted(row['seconds'] for row in rows)[len(rows) // 2]:.2f} s a step")
PY
  else
    echo "$name FAILED:"
    tail -n 12 "$work/$name.log"
  fi
}

one=(-m comem train "${settings[@]}")
sharded=(-m accelerate.commands.launch --config_file configs/accelerate/fsdp2.yaml --num_processes 1)
try plain "$python" "${one[@]}" &
try liger "$python" "${one[@]}" liger=true &
try 4bit "$python" "${one[@]}" quantization=4bit &
try fsdp2 "$python" "${sharded[@]}" "${one[@]}" &
wait
step=("$python" benchmarks/train_step.py --shape "${SHAPE:-7b}" --device "${DEVICE:-cuda}")
"${step[@]}" --liger --ways "one copy, packed" --micro-batch 4 --steps 12 --output "$out/train_step_7b_liger.json" || true
"${step[@]}" --quantization 4bit --ways checkpointing --micro-batch 2 --steps 8 \
  --output "$out/train_step_7b_4bit.json" || true
