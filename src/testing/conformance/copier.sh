#!/usr/bin/env bash
# Kafka's own TransactionalMessageCopier: copier.sh HOST:PORT. It copies a partition in transactions, and aborts some by chance; what is there at the
# end does not depend on which. Prints what a user observes, the same on every broker.
set -euo pipefail
server=$1
tool() { "$KAFKA" tool "$@"; }
for topic in tc-in tc-out; do tool topics --bootstrap-server "$server" --create --topic "$topic" --partitions 1 --replication-factor 1 | grep Created; done
seq 400 | tool console-producer --bootstrap-server "$server" --topic tc-in
copy() { # copy WHAT ARG…: copies until all is copied
  echo "$1"; shift
  tool org.apache.kafka.tools.TransactionalMessageCopier --broker-list "$server" --input-topic tc-in --input-partition 0 --output-topic tc-out "$@" |
    grep ShutdownComplete | grep -o '"totalProcessed.*'
  tool consumer-groups --bootstrap-server "$server" --describe --group tc-group 2> /dev/null | awk '/tc-in/ { print $2, $3, $4, $5, $6 }'
}
copy "with aborts" --consumer-group tc-group --transactional-id tc-one --transaction-size 20 --max-messages 200 --enable-random-aborts
copy "with the group's metadata" --consumer-group tc-group --transactional-id tc-two --transaction-size 33 --max-messages 200 --use-group-metadata --group-mode
tool console-consumer --bootstrap-server "$server" --topic tc-out --from-beginning --isolation-level read_committed --max-messages 400 > "${TMPDIR:-/tmp}/copied.$$"
trap 'rm -f "${TMPDIR:-/tmp}/copied.$$"' EXIT
echo "copied $(wc -l < "${TMPDIR:-/tmp}/copied.$$"), as they were: $(cmp -s "${TMPDIR:-/tmp}/copied.$$" <(seq 400) && echo yes || echo no)"
