# Sourced by the scripts here: help, `comem`, and `launch`, by which the finetune scripts start it.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
comem=$root/.venv/bin/comem
[ -x "$comem" ] || comem=$(command -v comem) ||
  { echo "${0##*/}: comem is not installed yet; first run: bash scripts/setup.sh" >&2; exit 127; }
launch=("$comem")
case " $* " in *" --dry-run "*) ACCELERATE_CONFIG= ;; esac # one plan is enough
if [ -n "${ACCELERATE_CONFIG:-}" ]; then
  accelerate=$root/.venv/bin/accelerate
  [ -x "$accelerate" ] || accelerate=accelerate
  launch=("$accelerate" launch --config_file "$ACCELERATE_CONFIG" ${GPUS:+--num_processes "$GPUS"} -m comem)
fi
