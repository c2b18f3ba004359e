#!/usr/bin/env bash
# Apache Kafka's own command line tools against a broker: tools.sh HOST:PORT. Prints what a user observes, the same on every broker.
# KAFKA is the path of scripts/kafka. With LINKS, a directory of Coreline's links, those tools stand in for Kafka's: what
# is printed must be the same.
set -uo pipefail
b=$1
name=kt
[ -z "${LINKS:-}" ] || name=kl
tool() {
  local tool=$1; shift
  if [ -x "${LINKS:-}/kafka-$tool" ]; then "$LINKS/kafka-$tool" "$@"; else "$KAFKA" tool "$tool" "$@"; fi
}
k() { local tool=$1; shift; tool "$tool" --bootstrap-server "$b" "$@" 2>&1 | grep -v -e '^$' -e ' WARN ' -e '^WARNING' -e ' ERROR ' -e '^[[:space:]]at '; }
observe() {
# Ids and addresses differ from broker to broker.
same() { sed -E -e 's/TopicId: [A-Za-z0-9_-]{22}/TopicId: ID/' -e 's/[ \t]+/ /g' -e "s/$b/BROKER/g"; }
echo "- create"; k topics --create --topic $name-a --partitions 2 --config max.message.bytes=200000 | same
echo "- create if missing"; k topics --create --topic $name-a --if-not-exists | same
echo "- create again"; k topics --create --topic $name-a
echo "- no such topic"; k topics --describe --topic $name-none
echo "- list"; k topics --list | grep "$name-" | sort
echo "- describe"; k topics --describe --topic $name-a | same | sed -E 's/(Configs:).*(max.message.bytes=200000).*/\1 \2/'
echo "- alter"; k topics --alter --topic $name-a --partitions 3 | same
echo "- configs"; k configs --alter --topic $name-a --add-config segment.bytes=1048576 | same
k configs --describe --topic $name-a | grep -oE '(segment.bytes|max.message.bytes)=[0-9]+ sensitive=[a-z]+' | sort
k configs --describe --topic $name-a | sort
k configs --alter --topic $name-a --delete-config segment.bytes | same
k configs --alter --topic $name-a --delete-config segment.bytes | same
k configs --describe --entity-type brokers --entity-name 1 | same
echo "- produce"; seq 1 500 | tool console-producer --bootstrap-server "$b" --topic $name-one --command-property acks=all
printf 'a:1\nb:2\n' | tool console-producer --bootstrap-server "$b" --topic $name-one --reader-property parse.key=true --reader-property key.separator=: --compression-codec zstd
echo "- consume"; k console-consumer --topic $name-one --partition 0 --offset 490 --max-messages 12 --timeout-ms 20000 \
  --formatter-property print.key=true --formatter-property print.offset=true | grep -v Processed
printf 'h1:x,h2:y\tk9\tv9\n' | tool console-producer --bootstrap-server "$b" --topic $name-h --reader-property parse.key=true --reader-property parse.headers=true
k console-consumer --topic $name-h --partition 0 --offset earliest --max-messages 1 --timeout-ms 20000 --property print.headers=true \
  --property print.key=true --property print.partition=true --property key.separator=- | grep -v -e Processed -e deprecated
# The last two records may be of the same millisecond, or not: the later one is the one of the largest time, or the earlier.
echo "- offsets"; k get-offsets --topic $name-one --time -3 | sed -E "s/^$name-one:0:50[01]$/of the last two/"; for t in -1 -2; do k get-offsets --topic $name-one --time $t | sed -E "s/^$name-one:0:/offset /"; done
echo "- delete records"; for to in 490 -1 9999; do
  printf '{"version": 1, "partitions": [{"topic": "%s", "partition": 0, "offset": %s}]}' $name-one $to > "${TMPDIR:-/tmp}/$name-$$.json"
  k delete-records --offset-json-file "${TMPDIR:-/tmp}/$name-$$.json" | same
  k get-offsets --topic $name-one --time -2 | sed -E "s/^$name-one:0:/offset /"
done; rm -f "${TMPDIR:-/tmp}/$name-$$.json"
echo "- log dirs"; k log-dirs --describe --topic-list $name-one | tail -1 | python3 -c "
import json, sys
d = json.loads(sys.stdin.read())
for b in d['brokers']:
    for l in b['logDirs']:
        print(l['error'], [(p['partition'], p['size'] > 500, p['offsetLag'], p['isFuture']) for p in l['partitions']])"
echo "- verifiable producer"; k verifiable-producer --topic $name-v --max-messages 2000 --acks -1 | grep -c producer_send_success
echo "- perf"; "$KAFKA" tool producer-perf --topic $name-p --num-records 50000 --record-size 500 --throughput -1 --bootstrap-server "$b" 2>&1 | tail -1 | cut -d, -f1
k get-offsets --topic $name-p | sed -E "s/^$name-p:0:/records /"
echo "- api versions"; k broker-api-versions | grep -cE '^\s+(Produce|Fetch|Metadata|ListOffsets|CreateTopics|InitProducerId)\(.*usable'
echo "- delete"; k topics --delete --topic $name-a | same
k topics --list | grep -c "^$name-a$" || true
}
observe | sed "s/$name-/kt-/g"
