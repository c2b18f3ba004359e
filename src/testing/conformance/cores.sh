#!/usr/bin/env bash
# Clients and Kafka's own tools where each core is a broker for them (coreline.core.port), and what that changes for them, as
# src/docs/shards.md says it: cores.sh DATA_DIRECTORY PORT CORE_PORT CORES. Starts the broker itself.
# Environment: KAFKA (scripts/kafka), CORELINE_BIN, WORK (with a venv that has confluent-kafka).
set -uo pipefail
data=$1 b=127.0.0.1:$2 core_port=$3 cores=$4
here=$(cd "$(dirname "$0")" && pwd)
out=$WORK/cores.broker
failed=0 passed=0 pid=

fail() { printf 'FAIL %s\n' "$1"; printf '  %s\n' "${@:2}"; failed=$((failed + 1)); }
same() { # same WHAT WANTED GOT
  if [ "$2" = "$3" ]; then passed=$((passed + 1)); else fail "$1: wanted" "$2" "got" "$3"; fi
}
has() { # has WHAT TEXT GOT
  if grep -qF -e "$2" <<< "$3"; then passed=$((passed + 1)); else fail "$1: no '$2' in" "$3"; fi
}
k() { local tool=$1; shift; "$KAFKA" tool "$tool" --bootstrap-server "$b" "$@" 2>&1; }

start() { # start [OVERRIDE…]
  : > "$out"
  "$CORELINE_BIN" start --override "listeners=PLAINTEXT://$b" --override "log.dirs=$data" --override node.id=1 \
    --override group.initial.rebalance.delay.ms=0 --override "coreline.cores=$cores" "$@" > "$out" 2>> "$out.log" &
  pid=$!
  for _ in $(seq 600); do
    [ ! -s "$out" ] || return 0
    kill -0 "$pid" 2> /dev/null || break
    sleep 0.05
  done
  tail -5 "$out.log"
  exit 1
}
stop() { kill -TERM "$pid"; wait "$pid" || fail "the broker did not stop cleanly" "$(tail -3 "$out.log")"; pid=; }
trap '[ -z "$pid" ] || kill "$pid" 2> /dev/null' EXIT

ids=() brokers=
for ((core = 0; core < cores; core++)); do
  ids+=($((1 + 1000 * core)))
  brokers+="127.0.0.1:$((core_port + core)) (id: $((1 + 1000 * core)) rack: null isFenced: false)"$'\n'
done
last=${ids[-1]} each=$(printf '%s\n' "${ids[@]}") partitions=$((6 * cores))

start --override "coreline.core.port=$core_port"

# Each core is a broker, leads what it has, and is the only replica of that.
same "brokers" "${brokers%$'\n'}" "$(k broker-api-versions | grep -o '^127.*)' | sort -t: -k3n)"
has "create" "Created topic" "$(k topics --create --topic cores --partitions $partitions)"
described=$(k topics --describe --topic cores | grep -o 'Leader.*Isr: [0-9,]*' | tr '\t' ' ')
same "leaders, replicas, in-sync" "$(for id in "${ids[@]}"; do echo "Leader: $id Replicas: $id Isr: $id"; done)" "$(sort -u <<< "$described" | sort -k2n)"
same "partitions" "$partitions" "$(wc -l <<< "$described")"
same "under-replicated, unavailable" "" "$(k topics --describe --under-replicated-partitions; k topics --describe --unavailable-partitions)"

# Produce, consume, groups, transactions.
seq 1000 | sed 's/.*/&:&/' | k console-producer --topic cores --command-property acks=all --reader-property parse.key=true --reader-property key.separator=:
same "records" 1000 "$(k get-offsets --topic cores | cut -d: -f3 | awk '{s += $1} END {print s + 0}')"
same "consumed" "$(seq 1000)" "$(k console-consumer --topic cores --group cores-java --from-beginning --max-messages 1000 --timeout-ms 60000 | grep -v Processed | sort -n)"
"$WORK/venv/bin/python" -B "$here/cores.py" "$b" cores "$partitions" || fail "cores.py"
k producer-perf --topic cores-t --num-records 2000 --record-size 100 --throughput -1 --transactional-id cores-java --transaction-duration-ms 100 > /dev/null
same "in transactions" 2000 "$(k console-consumer --topic cores-t --isolation-level read_committed --from-beginning --max-messages 2000 --timeout-ms 60000 | grep -vc Processed)"

# Tools that ask every broker and add up see everything once.
groups=$(k consumer-groups --list | grep '^cores-' | sort)
same "groups" "$({ echo cores-java; echo cores-members; seq -f 'cores-of-%g' 0 15; } | sort)" "$groups"
coordinators=$(k consumer-groups --describe --all-groups --state | grep -oE '127\.0\.0\.1:[0-9]+ \([0-9]+\)' | sort -u)
same "groups' coordinators" "" "$(grep -vF -f <(for ((core = 0; core < cores; core++)); do echo "127.0.0.1:$((core_port + core)) ($((1 + 1000 * core)))"; done) <<< "$coordinators")"
same "lag" 0 "$(k consumer-groups --describe --group cores-java | grep -E '^cores-java ' | tr -s ' ' | cut -d' ' -f6 | awk '{s += $1} END {print s + 0}')"
same "transactional ids" "cores-java cores-python" "$(k transactions list | grep -oE '^cores-[a-z]+' | sort | paste -sd' ')"
log_dirs() {
  python3 -c "
import json, sys
answer = json.loads(sys.stdin.read().splitlines()[-1])
for broker in sorted(answer['brokers'], key=lambda b: b['broker']):
    print(broker['broker'], sorted(int(p['partition'].rsplit('-', 1)[1]) for d in broker['logDirs'] for p in d['partitions']))"
}
dirs=$(k log-dirs --describe --topic-list cores | log_dirs)
same "log dirs: brokers" "$each" "$(cut -d' ' -f1 <<< "$dirs")"
same "log dirs: every partition once" "$(seq 0 $((partitions - 1)) | paste -sd' ')" "$(cut -d' ' -f2- <<< "$dirs" | tr -d '[],' | tr ' ' '\n' | sort -n | paste -sd' ')"
same "log dirs of one" "$(tail -1 <<< "$dirs")" "$(k log-dirs --describe --topic-list cores --broker-list "$last" | log_dirs)"

# What is one node's stays one node's: settings, replicas.
setting=log.cleaner.min.cleanable.ratio
has "alter a broker" "Completed updating config for broker $last" "$(k configs --alter --entity-type brokers --entity-name "$last" --add-config $setting=0.25)"
for id in "${ids[@]}"; do has "describe broker $id" "$setting=0.25" "$(k configs --describe --entity-type brokers --entity-name "$id")"; done
has "no such broker" "'999' doesn't exist" "$(k configs --describe --entity-type brokers --entity-name 999)"
has "replicas on two cores" "InvalidReplicationFactorException" "$(k topics --create --topic cores-2 --replication-factor 2)"
has "a replica by the id of a core" "Created topic" "$(k topics --create --topic cores-a --replica-assignment "$last,1")"
has "two cores are not two replicas" "Exception" "$(k topics --create --topic cores-b --replica-assignment "1:$last")"
same "topics" "cores cores-a cores-t cores-x" "$(k topics --list | grep -v __ | sort | paste -sd' ')"
same "delete" "" "$(k topics --delete --topic cores-a)"
stop

# It is only what clients are told: without the setting the same data is one broker's.
start
same "without" "127.0.0.1:${b#*:} (id: 1 rack: null isFenced: false)" "$(k broker-api-versions | grep -o '^127.*)')"
same "consumed without" "$(seq 1000)" "$(k console-consumer --topic cores --from-beginning --isolation-level read_committed --max-messages 1000 --timeout-ms 60000 | grep -v Processed | sort -n)"
same "lag without" 0 "$(k consumer-groups --describe --group cores-java | grep -E '^cores-java ' | tr -s ' ' | cut -d' ' -f6 | awk '{s += $1} END {print s + 0}')"
stop
echo "$passed observations of clients of $cores cores"
[ "$failed" = 0 ]
