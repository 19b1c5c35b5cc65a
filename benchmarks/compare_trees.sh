#!/usr/bin/env bash
# Two checkouts against each other in one sitting: encoding, answering, a training step, bank reads, scoring.
#   bash benchmarks/compare_trees.sh OLD NEW [OUTPUT_FOLDER]
# Each runs its own scripts of benchmarks/, small, on one thread, in turns; the better of ROUNDS (2) counts.
# Prints NEW / OLD for every figure: above 1 is slower, or larger. Under a quarter of an hour on a quiet machine.
set -euo pipefail
case "${1:-}" in
  -h | --help | "") sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
old="$(realpath "$1")"
new="$(realpath "$2")"
mkdir -p "${3:-runs/compare}"
out="$(realpath "${3:-runs/compare}")"
python="$(realpath -s "${PYTHON:-$new/.venv/bin/python}")"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

run() { # TREE ROUND SCRIPT ARGUMENT…
  local to="$out/$(basename "$1").$3.$2.json"
  echo "$(date +%T) $(basename "$1") $3"
  (cd "$1" && PYTHONPATH="$1" "$python" "benchmarks/$3.py" "${@:4}" --output "$to" > "$to.log" 2>&1) \
    || { tail -5 "$to.log"; exit 1; }
}

both() { # ROUND SCRIPT ARGUMENT…
  run "$old" "$@"
  run "$new" "$@"
}

rm -f "$out"/*.json
for round in $(seq "${ROUNDS:-2}"); do
  both "$round" encode_batching --repeat 12
  both "$round" train_step --shape toy --steps 12 --ways "one copy, packed" checkpointing
  both "$round" score_million --count 100000
  both "$round" bank_reads --items 4000 --reads 400
  both "$round" answer_bank_vs_rag --items 10 --new-tokens 16 --repeat 3 --threads 1
done

"$python" - "$out" "$(basename "$old")" "$(basename "$new")" << 'PYTHON'
import json, re, sys
from pathlib import Path

COUNTS = re.compile(r"seconds|_ms$|peak|per_second|on_disk")
OVER = re.compile(r"per_second")  # more is better
WALL = re.compile(r"(?<!cpu_)(seconds|p50_ms|p99_ms)$|from_disk|wall|p99")  # beside processor time: noise


def figures(value, path=""):
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in ("settings", "sizes", "manifest", "made_by", "run")}
        cpu = any("cpu" in key for key in value)
        for key, each in value.items():
            if not (cpu and "cpu" not in key and WALL.search(key)):
                yield from figures(each, f"{path}.{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            name = f"{each['way']}" if isinstance(each, dict) and "way" in each else str(number)
            yield from figures(each, f"{path}.{name}")
    elif isinstance(value, (int, float)) and COUNTS.search(path):
        yield path, float(value)


folder, *trees = Path(sys.argv[1]), *sys.argv[2:]
found = {}
for tree in trees:
    for file in sorted(folder.glob(f"{tree}.*.json")):
        script = file.name.removeprefix(f"{tree}.").split(".")[0]
        for path, value in figures(json.loads(file.read_text())):
            best = max if OVER.search(path) else min
            kept = found.setdefault(script + path, {})
            kept[tree] = best(kept.get(tree, value), value)
print(f"{'figure':<70}{trees[0]:>14}{trees[1]:>14}{'ratio':>8}")
for path, kept in found.items():
    if set(kept) == set(trees) and all(kept.values()):
        ratio = kept[trees[1]] / kept[trees[0]]
        ratio = 1 / ratio if OVER.search(path) else ratio
        print(f"{path:<70}{kept[trees[0]]:>14.5g}{kept[trees[1]]:>14.5g}{ratio:>8.2f}")
PYTHON
