#!/usr/bin/env bash
# Apache Kafka's own command line tools against a broker: tools.sh HOST:PORT. Prints what a user observes, the same on every broker.
# KAFKA is the path of scripts/kafka.
set -uo pipefail
b=$1
k() { local tool=$1; shift; "$KAFKA" tool "$tool" --bootstrap-server "$b" "$@" 2>&1 | grep -v -e '^$' -e ' WARN ' -e '^WARNING'; }
# Ids and addresses differ from broker to broker.
same() { sed -E -e 's/TopicId: [A-Za-z0-9_-]{22}/TopicId: ID/' -e 's/[ \t]+/ /g' -e "s/$b/BROKER/g"; }
echo "- create"; k topics --create --topic kt-a --partitions 2 --config max.message.bytes=200000 | same
echo "- create if missing"; k topics --create --topic kt-a --if-not-exists | same
echo "- list"; k topics --list | grep kt- | sort
echo "- describe"; k topics --describe --topic kt-a | same | sed -E 's/(Configs:).*(max.message.bytes=200000).*/\1 \2/'
echo "- alter"; k topics --alter --topic kt-a --partitions 3 | same
echo "- configs"; k configs --alter --topic kt-a --add-config segment.bytes=1048576 | same
k configs --describe --topic kt-a | grep -oE '(segment.bytes|max.message.bytes)=[0-9]+ sensitive=[a-z]+' | sort
k configs --alter --topic kt-a --delete-config segment.bytes | same
echo "- produce"; seq 1 500 | "$KAFKA" tool console-producer --bootstrap-server "$b" --topic kt-one --command-property acks=all
printf 'a:1\nb:2\n' | "$KAFKA" tool console-producer --bootstrap-server "$b" --topic kt-one --reader-property parse.key=true --reader-property key.separator=: --compression-codec zstd
echo "- consume"; k console-consumer --topic kt-one --partition 0 --offset 490 --max-messages 12 --timeout-ms 20000 \
  --formatter-property print.key=true --formatter-property print.offset=true | grep -v Processed
echo "- offsets"; for t in -1 -2 -3; do k get-offsets --topic kt-one --time $t | sed -E 's/^kt-one:0:/offset /'; done
echo "- log dirs"; k log-dirs --describe --topic-list kt-one | tail -1 | python3 -c "
import json, sys
d = json.loads(sys.stdin.read())
for b in d['brokers']:
    for l in b['logDirs']:
        print(l['error'], [(p['partition'], p['size'] > 500, p['offsetLag'], p['isFuture']) for p in l['partitions']])"
echo "- verifiable producer"; k verifiable-producer --topic kt-v --max-messages 2000 --acks -1 | grep -c producer_send_success
echo "- perf"; "$KAFKA" tool producer-perf --topic kt-p --num-records 50000 --record-size 500 --throughput -1 --bootstrap-server "$b" 2>&1 | tail -1 | cut -d, -f1
k get-offsets --topic kt-p | sed -E 's/^kt-p:0:/records /'
echo "- api versions"; k broker-api-versions | grep -cE '^\s+(Produce|Fetch|Metadata|ListOffsets|CreateTopics|InitProducerId)\(.*usable'
echo "- delete"; k topics --delete --topic kt-a | same
k topics --list | grep -c '^kt-a$' || true
