#!/usr/bin/env bash
# Kafka's own tool for transactions against a broker: transactions.sh HOST:PORT. Prints what a user observes, the same on every broker.
# KAFKA is the path of scripts/kafka. With LINKS, a directory of Coreline's links, those tools stand in for Kafka's: what
# is printed must be the same.
set -uo pipefail
b=$1
name=xt
[ -z "${LINKS:-}" ] || name=xl
files=$(mktemp -d)
writer=
trap '[ -z "$writer" ] || kill -9 "$writer" 2> /dev/null; rm -rf "$files"' EXIT
tool() {
  local tool=$1; shift
  if [ -x "${LINKS:-}/kafka-$tool" ]; then "$LINKS/kafka-$tool" "$@"; else "$KAFKA" tool "$tool" "$@"; fi
}
x() { tool transactions --bootstrap-server "$b" "$@" 2>&1 | grep -v -e '^$' -e ' WARN ' -e ' ERROR ' | same; }
# The very columns of a table, but for these, which differ from run to run: any COLUMN… -- COMMAND. A column is as wide as its head at least.
any() {
  local columns=()
  while [ "$1" != -- ]; do columns+=("$1"); shift; done
  shift
  "$@" | awk -F '\t' -v OFS='\t' -v columns="${columns[*]}" 'BEGIN { n = split(columns, each, " ") } NR > 1 { for (i = 1; i <= n; i++) $each[i] = "any" } { print }'
}
# Kafka says of an error that there is more in its log; the reasons are each tool's own words.
same() { sed -E -e 's/ Enable debug logging for additional detail\.//' -e "s/$name-/x-/g" -e 's/^(Failed to [^:]*): .*/\1: WHY/'; }
until_true() { local end=$((SECONDS + 60)); until "$@" || [ $SECONDS -ge $end ]; do sleep 0.1; done; }
is_open() { "$LINKS_ALWAYS/kafka-transactions" --bootstrap-server "$b" describe-producers --topic $name-out --partition 0 2> /dev/null | awk 'END { exit NR < 2 }'; }
is_over() { "$LINKS_ALWAYS/kafka-transactions" --bootstrap-server "$b" describe --transactional-id $name-open | grep -q -e CompleteAbort -e Empty; }
tool topics --bootstrap-server "$b" --create --topic $name-out --partitions 1 > "$files/made"
# A transaction that stays open: its first records are sent, the end never comes.
java -Xmx256m -cp "$("$KAFKA" classpath)" org.apache.kafka.tools.ProducerPerformance --topic $name-out --num-records 1000000 --record-size 10 --throughput 1 \
  --transactional-id $name-open --transaction-duration-ms 36000000 --producer-props "bootstrap.servers=$b" transaction.timeout.ms=600000 > "$files/writer" 2>&1 &
writer=$!
until_true is_open
kill -9 $writer
wait $writer 2> /dev/null
writer=
echo "- list"; any 3 -- x list | grep -E "^TransactionalId|x-open"
any 3 -- x list --transactional-id-pattern "$name-(o|p)pen"
x list --transactional-id-pattern "$name-none"
any 3 -- x list --transactional-id-pattern "$name-.*" --duration-filter 1
x list --transactional-id-pattern "$name-.*" --duration-filter 3600000
echo "- describe"; any 3 7 8 -- x describe --transactional-id $name-open
x describe --transactional-id $name-none
echo "- producers"; any 1 4 5 -- x describe-producers --topic $name-out --partition 0
any 1 4 5 -- x describe-producers --broker-id 1 --topic $name-out --partition 0
echo "- find hanging"; x find-hanging
x find-hanging --partition 0
x find-hanging --topic $name-none
x find-hanging --topic $name-out --max-transaction-timeout 0
x find-hanging --topic $name-out --partition 0
x find-hanging --broker-id 1
echo "- abort"; x abort --topic $name-out --partition 0
x abort --topic $name-out --partition 0 --start-offset 777
x abort --topic $name-out --partition 0 --producer-id 7
x abort --topic $name-out --partition 0 --producer-id 7 --producer-epoch 0
x abort --topic $name-out --partition 0 --start-offset 0
any 1 4 5 -- x describe-producers --topic $name-out --partition 0
echo "- hanging"
coreline=$(readlink -f "$LINKS_ALWAYS/kafka-transactions")
hanging="python3 -B $(dirname "$0")/hanging.py $b $name"
stable() { $hanging read | sed -E 's/\([0-9]+, 0\)/(any, 0)/'; }
rows() { any 3 4 7 8 -- x "$@" | awk 'NR == 1 { print; fflush(); next } { print | "sort" }'; }
tool topics --bootstrap-server "$b" --create --topic $name-hang --partitions 5 > "$files/made"
verification=(tool configs --bootstrap-server "$b" --alter --entity-type brokers --entity-default)
"${verification[@]}" --add-config transaction.partition.verification.enable=false | same
$hanging begin | same
"${verification[@]}" --delete-config transaction.partition.verification.enable | same
$hanging verified | same
rows find-hanging --topic $name-hang
rows find-hanging --topic $name-hang --max-transaction-timeout 0
rows find-hanging --topic $name-hang --max-transaction-timeout 0 --partition 1
stable
x abort --topic $name-hang --partition 0 --start-offset 1
x abort --topic $name-hang --partition 0 --start-offset 0
"$coreline" transaction find-hanging --bootstrap-server "$b" --topic $name-hang --older-than 0 | awk -F '\t' 'NR > 1 { print $1, $2, $6 }' | sort | same
"$coreline" transaction abort --bootstrap-server "$b" --topic $name-hang --partition 1 --start-offset 0 | sed 's/producer [0-9]*/producer any/' | same
x abort --topic $name-hang --partition 2 --start-offset 0
rows find-hanging --topic $name-hang --max-transaction-timeout 0
stable
tool console-consumer --bootstrap-server "$b" --topic $name-hang --from-beginning --isolation-level read_committed --max-messages 5 --timeout-ms 60000 2> "$files/consumer" | sort
echo "- terminate"; x forceTerminateTransaction --transactionalId $name-open
# The markers of what it aborts may be on their way.
until_true is_over
any 3 4 6 7 8 -- x describe --transactional-id $name-open
