#!/usr/bin/env bash
# Kafka's own group tools and kcat -G against a broker: groups.sh HOST:PORT. Prints what a user observes, the same on every broker.
# KAFKA is the path of scripts/kafka.
set -uo pipefail
b=$1
k() { local tool=$1; shift; "$KAFKA" tool "$tool" --bootstrap-server "$b" "$@" 2>&1 | grep -v -e '^$' -e ' WARN ' -e '^WARNING'; }
same() { sed -E -e "s/$b/BROKER/g" -e 's/[ \t]+/ /g' -e 's/ $//'; }
group() { k consumer-groups "$@" | grep -v '^Error:' | grep -vE '^\s+at |^java|^Caused' | same; }
k topics --create --topic gt-one --partitions 2 | tail -1
seq 1 100 | sed 's/\(.*\)/k\1:\1/' | "$KAFKA" tool console-producer --bootstrap-server "$b" --topic gt-one --reader-property parse.key=true --reader-property key.separator=:
echo "- console consumer"; k console-consumer --topic gt-one --group gt-group --from-beginning --max-messages 100 --timeout-ms 30000 | grep -v Processed | sort -n | md5sum
echo "- describe"; group --describe --group gt-group
group --describe --group gt-group --state
group --describe --group gt-group --members
echo "- list"; group --list | grep '^gt-'
group --list --state --type | grep -E '^GROUP|^gt-'
echo "- reset"; for to in --to-earliest --to-latest '--to-offset 7' '--shift-by -5' '--to-current' '--by-duration PT0S'; do
  # shellcheck disable=SC2086
  echo "$to"; group --group gt-group --reset-offsets $to --topic gt-one --execute
done
group --group gt-group --reset-offsets --to-earliest --all-topics --dry-run
group --describe --group gt-group
echo "- delete offsets"; group --delete-offsets --group gt-group --topic gt-one:1
group --describe --group gt-group
echo "- delete"; group --delete --group gt-group
group --delete --group gt-none
group --list | grep -c '^gt-group$'
for protocol in classic consumer; do
  echo "- verifiable consumer $protocol"
  k verifiable-consumer --topic gt-one --group-id "gt-v-$protocol" --group-protocol "$protocol" --max-messages 100 --reset-policy earliest \
    | python3 -c "
import json, sys
events = [json.loads(line) for line in sys.stdin if line.startswith('{')]
read = sum(e.get('count', 0) for e in events if e['name'] == 'records_consumed')
assigned = sorted((p['topic'], p['partition']) for e in events if e['name'] == 'partitions_assigned' for p in e['partitions'])
commits = {str(e.get('success')) for e in events if e['name'] == 'offsets_committed'}
print('read', read, 'assigned', assigned, 'commits', sorted(commits))"
  group --describe --group "gt-v-$protocol" | sed -E 's/ [0-9]+ [0-9]+ [0-9]+ - - -$/ OFFSETS/'
done
if command -v kcat > /dev/null; then
  echo "- kcat -G"; timeout 60 kcat -b "$b" -G gt-kcat -o beginning -X auto.offset.reset=earliest -c 100 -q gt-one 2> /dev/null | sort -n | md5sum
fi
