#!/usr/bin/env bash
# Scores predictions on both sets of OVEN: answers are linked to Wikidata ids, then scored officially.
#
# Usage: bash scripts/evaluation/eval_oven.sh [OPTION…]      options: comem evaluate --help
#
#   QUERY, ENTITY    run folders (default: made by the embedded backbone on the embedded world)
#   REFERENCES_QUERY, REFERENCES_ENTITY  oven_query_val.jsonl, oven_entity_val.jsonl (or …_3k.jsonl)
#   TITLES           index of Wikipedia's titles, made by comem oven index
#
# Example: QUERY=runs/oven_query ENTITY=runs/oven_entity REFERENCES_QUERY=oven_query_val.jsonl \
#   REFERENCES_ENTITY=oven_entity_val_3k.jsonl TITLES=wiki6m bash scripts/evaluation/eval_oven.sh
set -euo pipefail
source "$(dirname "$0")/_common.sh"
case "${1:-}" in -h | --help) show_help; exit 0 ;; esac
if [ -z "${QUERY:-}${ENTITY:-}" ]; then
  for part in query entity; do embedded "oven_$part" oven; done
  QUERY=runs/evaluation/oven_query ENTITY=runs/evaluation/oven_entity TITLES=$world/titles
  REFERENCES_QUERY=$world/oven/oven_query_val.jsonl REFERENCES_ENTITY=$world/oven/oven_entity_val.jsonl
  [ -d "$TITLES" ] || "$comem" oven index --titles "$world/oven/Wiki6M_ver_1_0_title_only.jsonl" --output "$TITLES"
fi
for name in QUERY ENTITY REFERENCES_QUERY REFERENCES_ENTITY TITLES; do
  [ -n "${!name:-}" ] || { echo "eval_oven.sh: $name is missing; see --help" >&2; exit 2; }
done
for folder in "$QUERY" "$ENTITY"; do
  "$comem" oven link --index "$TITLES" --predictions "$folder/predictions.jsonl" --output "$folder/linked.jsonl"
done
exec "$comem" evaluate oven --predictions-query "$QUERY/linked.jsonl" --predictions-entity "$ENTITY/linked.jsonl" \
  --references-query "$REFERENCES_QUERY" --references-entity "$REFERENCES_ENTITY" "$@"
