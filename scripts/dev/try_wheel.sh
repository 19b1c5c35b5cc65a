#!/usr/bin/env bash
# A stranger's first minutes: the wheel alone in an empty environment, outside the repository. README's three
# lines, `comem ask`, the server by curl, and the page (in a headless Chromium where there is one).
#
# Usage: bash scripts/dev/try_wheel.sh [WHEEL]
#
#   WHEEL  what is tried (default: one that is built of this tree)
#
# Settings from the environment:
#   PYTHON_VERSION  of the environment (default: 3.12)
#   UV              how uv is called   (default: uv; pip install uv)
#   KEEP            a folder that keeps environment and memory (default: a temporary one)
#   BROWSER         a Chromium         (default: chromium, google-chrome, or none)
#
# Example: PYTHON_VERSION=3.13 bash scripts/dev/try_wheel.sh dist/comem-0.2.0-py3-none-any.whl
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "$0"; exit 0 ;;
esac
root=$(cd "$(dirname "$0")/../.." && pwd)
uv=${UV:-uv}
"$uv" --version >/dev/null || { echo "try_wheel.sh: uv does not run; pip install uv, or set UV" >&2; exit 127; }
work=${KEEP:-$(mktemp -d)}
server=
finish() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -n "${KEEP:-}" ] || rm -rf "$work"
}
trap finish EXIT
rm -rf "$work/desk"
mkdir -p "$work/desk"
say() { echo "try_wheel: $*"; }

wheel=${1:-}
if [ -z "$wheel" ]; then
  "$uv" build --quiet --wheel --out-dir "$work/dist" "$root"
  wheel=$(ls "$work"/dist/*.whl)
fi
wheel=$(cd "$(dirname "$wheel")" && pwd)/$(basename "$wheel")
"$uv" venv --quiet --python "${PYTHON_VERSION:-3.12}" --clear "$work/venv"
"$uv" pip install --quiet --python "$work/venv/bin/python" "$wheel[serve]"
say "$(basename "$wheel") in an empty environment of $("$work/venv/bin/python" --version)"

export PATH="$work/venv/bin:$PATH" HF_HUB_OFFLINE=1 PYTHONPATH=
awk '/^```python/ { inside = 1; next } /^```/ { if (inside) exit } inside' "$root/README.md" >"$work/desk/lines.py"
cd "$work/desk"
said=$(python lines.py | tail -n 1)
say "the three lines: $said"
[ "$said" = "marble from 8 embeddings" ]

comem ask trip "What are the walls made of?" >ask.txt
grep -q "comem" ask.txt
say "comem ask trip: $(head -n 1 ask.txt)"

comem ui trip --port 0 >server.txt &
server=$!
for _ in $(seq 1800); do
  grep -q http server.txt && break
  kill -0 "$server"
  sleep 0.5
done
url=$(grep -o 'http://[^ ]*' server.txt | head -n 1)
url=${url%/}
curl --silent --show-error --fail "$url/health" | grep -q '"status":"ok"'
question='{"model": "toy", "messages": [{"role": "user", "content": "What are the walls made of?"}]}'
answer=$(curl --silent --show-error --fail "$url/v1/chat/completions" \
  --header "content-type: application/json" --data "$question")
echo "$answer" | grep -q '"object":"chat.completion"'
say "one command: $url answers $(echo "$answer" | grep -o '"content":"[^"]*"')"
curl --silent --show-error --fail "$url/" | grep -qi '<!doctype html>'
curl --silent --show-error --fail --output /dev/null "$url/page.js"
browser=${BROWSER-$(command -v chromium || command -v google-chrome || true)}
if [ -n "$browser" ]; then
  "$browser" --headless --no-sandbox --disable-gpu --virtual-time-budget=20000 --dump-dom "$url/" >page.html 2>/dev/null
  grep -q "1 item" page.html
  say "the page: shows the memory's item in $(basename "$browser")"
else
  say "the page: its files are served (no browser here)"
fi
kill -TERM "$server"
wait "$server" || [ $? -eq 143 ]
server=
say "all of it works"
