#!/usr/bin/env bash
# Makes .venv with everything in requirements.txt and this project in it. Does nothing where nothing has changed.
#
# Usage: bash scripts/setup.sh
#
# Settings from the environment, all optional:
#   COMEM_PYTHON      the Python 3.10+ to build .venv with (default: the newest of python3.13 … python3.10, python3)
#   COMEM_TORCH_INDEX the index for torch and torchvision ("default": the usual one, no probing)
#   COMEM_NO_UV=1     use pip even where uv is installed
#   PIP_*, UV_*       are honoured by pip and uv as usual
set -euo pipefail
cd -P "$(dirname "$0")/.."
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac

venv=.venv
python=$venv/bin/python
stamp=$venv/.comem-stamp
torch_cpu=https://download.pytorch.org/whl/cpu

say() { echo "setup: $*"; }
fail() { echo "setup: error: $1" >&2; shift; for line in "$@"; do echo "       $line" >&2; done; exit 1; }

# True if "$1" runs and is Python 3.10 or newer (a name on PATH may be a shim that does not run).
good_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

# The interpreter itself, also when an activated environment (perhaps the one to be replaced) is first on PATH.
base_of='import sys; print(getattr(sys, "_base_executable", None) or sys.executable)'

find_python() {
  local name
  for name in "${COMEM_PYTHON:-}" python3.13 python3.12 python3.11 python3.10 python3 python; do
    if [ -n "$name" ] && good_python "$name"; then "$name" -c "$base_of"; return 0; fi
  done
  return 1
}

# The way to call uv: "uv", "PYTHON -m uv", or nothing.
find_uv() {
  [ -z "${COMEM_NO_UV:-}" ] || return 0
  if uv --version >/dev/null 2>&1; then echo uv
  elif [ -n "$1" ] && "$1" -m uv --version >/dev/null 2>&1; then echo "$1 -m uv"; fi
}

# What the environment is made from; another value means: install again. A moved folder counts, because
# the scripts in .venv/bin hold its absolute path.
wanted_stamp() {
  "$1" - <<'PY'
import hashlib, os, pathlib, sys
parts = [pathlib.Path(name).read_bytes() for name in ("requirements.txt", "pyproject.toml")]
parts += [sys.version.encode(), os.getcwd().encode()]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PY
}

has_gpu() { nvidia-smi -L >/dev/null 2>&1 || [ -e /dev/nvidia0 ] || [ -e /dev/dxg ]; }

# True if the index "$1" answers within five seconds.
answers() {
  "$python" - "$1/torch/" <<'PY' >/dev/null 2>&1
import sys, urllib.request
with urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=5) as reply:
    sys.exit(reply.status != 200)
PY
}

# The index for torch: PyTorch's CPU wheels (ten times smaller) where there is no GPU and nobody chose an index.
torch_index() {
  if [ -n "${COMEM_TORCH_INDEX:-}" ]; then
    [ "$COMEM_TORCH_INDEX" = default ] || echo "$COMEM_TORCH_INDEX"
  elif [ "$(uname -s)" = Linux ] && [ -z "${PIP_INDEX_URL:-}${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ] && ! has_gpu; then
    if answers "$torch_cpu"; then echo "$torch_cpu"; else say "PyTorch's CPU index does not answer: using the default index" >&2; fi
  fi
}

install() {
  if [ -n "$uv" ]; then $uv pip install --python "$python" "$@"
  else "$python" -m pip install --disable-pip-version-check --progress-bar on "$@"; fi
}

install_all() {
  local index
  index=$(torch_index)
  if [ -n "$index" ]; then
    say "torch and torchvision from $index"
    # shellcheck disable=SC2046 # one word a pin is meant
    install --index-url "$index" --no-deps $(grep -E '^(torch|torchvision)==' requirements.txt) ||
      say "that did not work: taking torch from the default index"
  fi
  say "packages of requirements.txt (about 400 MB, with GPU wheels 3 GB; kept if already installed)"
  install -r requirements.txt || return 1  # "set -e" does not hold inside a function tested by "||"
  say "this project, editable"
  install --no-deps --no-build-isolation -e . || return 1
}

make_venv() {
  if [ -n "$uv" ]; then $uv venv --quiet --clear --python "${base:-3.12}" "$venv"; return; fi
  rm -rf "$venv"
  "$base" -m venv "$venv" || {
    rm -rf "$venv"
    fail "$base cannot make virtual environments." "On Debian and Ubuntu: sudo apt install python3-venv, then run this again."
  }
}

base=$(find_python || true)
uv=$(find_uv "$base")
[ -n "$base$uv" ] || fail "no Python 3.10 or newer found." "Install one, or name it: COMEM_PYTHON=/path/to/python3.12 bash scripts/setup.sh"

# pip's settings for a mirror and for certificates hold for uv too, unless uv has its own.
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$PIP_INDEX_URL}}"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"

if [ -e "$venv" ] && ! good_python "$python"; then
  say "the Python in $venv does not run: making $venv anew"
  rm -rf "$venv"
fi
if [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted_stamp "$python")" ]; then
  say "$venv is up to date"
  exit 0
fi
if [ -x "$python" ] && ! grep -qF "$PWD/$venv" "$venv/bin/activate" 2>/dev/null; then
  say "$venv was made in another folder: making it anew"
  rm -rf "$venv"
fi
if [ -x "$python" ] && [ -z "$uv" ] && ! "$python" -m pip --version >/dev/null 2>&1; then
  say "$venv has no pip: making it anew"
  rm -rf "$venv"
fi

if [ -x "$python" ]; then
  say "$venv is not up to date: installing what is missing or has changed"
else
  say "making $venv with ${base:-a Python that uv fetches} ($([ -n "$uv" ] && echo uv || echo pip))"
  make_venv
fi
rm -f "$stamp"
install_all || fail "the installation did not finish." \
  "If the network failed: run this again, it goes on where it stopped." \
  "Behind a mirror or proxy: set PIP_INDEX_URL (or UV_DEFAULT_INDEX), HTTPS_PROXY, and SSL_CERT_FILE where it has its own certificates." \
  "To start over: rm -rf $venv"
wanted_stamp "$python" > "$stamp"
say "done: $("$python" -c 'import platform, importlib.metadata as m; print("Python", platform.python_version(), "with torch", m.version("torch"), "and transformers", m.version("transformers"))')"
