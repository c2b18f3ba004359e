#!/usr/bin/env bash
# Kafka's dump-log and ours over the same files, which a node of ours wrote and left in good order; then ours checks them all.
#   files.sh DATA_DIRECTORY    environment: KAFKA (scripts/kafka), CORELINE_BIN, WORK (where the outputs go)
set -euo pipefail
data=$1
export LC_ALL=C.UTF-8
mapfile -t files < <(find "$data" -path '*-[0-9]*/*' ! -path '*__cluster_metadata*' ! -path '*-delete/*' -size +0 \
  \( -name '*.log' -o -name '*.index' -o -name '*.timeindex' -o -name '*.snapshot' \) | sort)
[ ${#files[@]} -gt 0 ] || { echo "no file of a partition below $data"; exit 1; }
"$KAFKA" tool dump-log --deep-iteration --files "$(IFS=,; echo "${files[*]}")" > "$WORK/dump-log.kafka.out" 2> "$WORK/dump-log.kafka.err" || {
  echo "Kafka's dump-log ended with an error:"; tail -5 "$WORK/dump-log.kafka.err"; exit 1; }
"$CORELINE_BIN" log dump --deep-iteration "${files[@]}" > "$WORK/dump-log.coreline.out"
diff -u --label "Kafka's dump-log" --label "coreline log dump" "$WORK/dump-log.kafka.out" "$WORK/dump-log.coreline.out" | head -40
cmp -s "$WORK/dump-log.kafka.out" "$WORK/dump-log.coreline.out" || exit 1
valid=$(grep -c 'isvalid: true' "$WORK/dump-log.kafka.out")
if grep -iE 'isvalid: false|invalid bytes' "$WORK/dump-log.kafka.out" || grep -iE 'exception|corrupt|mismatch|not found|out of order' "$WORK/dump-log.kafka.err"; then
  exit 1
fi
"$CORELINE_BIN" log verify "$data"
echo "${#files[@]} files, $valid batches valid, $(wc -l < "$WORK/dump-log.kafka.out") lines the same"
