#!/usr/bin/env bash
# kcat against a broker: kcat.sh HOST:PORT. Prints what a user observes, the same on every broker.
set -euo pipefail
b=$1
k() { kcat -b "$b" -X topic.metadata.refresh.interval.ms=500 "$@"; }
printf 'one\ntwo\nthree\n' | k -P -t kc-auto -p 0 -X acks=all        # creates the topic
echo "consume: $(k -C -t kc-auto -p 0 -o beginning -e -q | tr '\n' ' ')"
echo "from 1: $(k -C -t kc-auto -p 0 -o 1 -e -q | tr '\n' ' ')"
echo "last 1: $(k -C -t kc-auto -p 0 -o -1 -e -q | tr '\n' ' ')"
for codec in none gzip snappy lz4 zstd; do
  printf 'k1:%s-a\nk2:%s-b\n' $codec $codec | k -P -t kc-codecs -p 0 -K: -z $codec
done
echo "codecs: $(k -C -t kc-codecs -p 0 -o beginning -e -q -f '%o %k=%s;')"
printf 'k\n' | k -P -t kc-codecs -p 0 -K: -Z
printf 'x:\n' | k -P -t kc-codecs -p 0 -K: -Z -H a=1 -H b=2
echo "tombstone: $(k -C -t kc-codecs -p 0 -o 10 -e -q -f '%o %K %S %h;')"
echo "query: $(k -Q -t kc-auto:0:-1 | tr '\n' ' ')$(k -Q -t kc-auto:0:-2 | tr '\n' ' ')"
echo "topics: $(k -L -J | python3 -c "
import json, sys
d = json.load(sys.stdin)
print([(t['topic'], len(t['partitions'])) for t in sorted(d['topics'], key=lambda t: t['topic']) if t['topic'].startswith('kc-')], len(d['brokers']))")"
seq 1 20000 | k -P -t kc-many -p 0 -X enable.idempotence=true
echo "many: $(k -C -t kc-many -p 0 -o beginning -e -q | sha256sum | cut -c1-16) $(seq 1 20000 | sha256sum | cut -c1-16)"
head -c 800000 /dev/zero | tr '\0' z > "${TMPDIR:-/tmp}/kc-large.$$"
k -P -t kc-large -p 0 "${TMPDIR:-/tmp}/kc-large.$$"
rm -f "${TMPDIR:-/tmp}/kc-large.$$"
echo "large: $(k -C -t kc-large -p 0 -o beginning -e -q | wc -c)"
