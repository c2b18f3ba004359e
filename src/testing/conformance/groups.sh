#!/usr/bin/env bash
# Kafka's own group tools and kcat -G against a broker: groups.sh HOST:PORT. Prints what a user observes, the same on every broker.
# KAFKA is the path of scripts/kafka. With LINKS, a directory of Coreline's links, those tools stand in for Kafka's: what
# is printed must be the same.
set -uo pipefail
b=$1
name=gt
[ -z "${LINKS:-}" ] || name=gl
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
tool() {
  local tool=$1; shift
  if [ -x "${LINKS:-}/kafka-$tool" ]; then "$LINKS/kafka-$tool" "$@"; else "$KAFKA" tool "$tool" "$@"; fi
}
k() { local tool=$1; shift; tool "$tool" --bootstrap-server "$b" "$@" 2>&1 | grep -v -e '^$' -e ' WARN ' -e '^WARN' -e ' ERROR '; }
# Members' ids and hosts differ from run to run.
same() { sed -E -e "s/$b/BROKER/g" -e 's/(console-consumer|kcat|rdkafka)-[0-9a-f]{8}-[0-9a-f-]{27}/MEMBER/g' -e 's/[ \t]+/ /g' -e 's/ $//' \
  -e 's/(due to:|Error:) .*/\1 WHY/'; }
group() { k consumer-groups "$@" | grep -v '^Error:' | grep -vE '^\s+at |^java|^Caused|^com.fasterxml|^org.apache' | same; }
# Rows of several topics come in any order.
rows() { group "$@" | sort; }
# The very columns of a table.
columns() { k consumer-groups "$@" | sed -E -e 's/ +$//'; }
observe() {
k topics --create --topic $name-one --partitions 2 | tail -1
k topics --create --topic $name-two --partitions 1 | tail -1
seq 1 100 | sed 's/\(.*\)/k\1:\1/' | tool console-producer --bootstrap-server "$b" --topic $name-one --reader-property parse.key=true --reader-property key.separator=:
seq 1 10 | tool console-producer --bootstrap-server "$b" --topic $name-two
echo "- console consumer"; k console-consumer --topic $name-one --group $name-group --from-beginning --max-messages 100 --timeout-ms 30000 | grep -v Processed | sort -n | md5sum
echo "- describe"; group --describe --group $name-group
columns --describe --group $name-group | sed "s/$name-/XX-/g"
columns --describe --group $name-group --verbose | sed "s/$name-/XX-/g"
group --describe --group $name-group --state
group --describe --group $name-group --state --verbose
group --describe --group $name-group --members
group --describe --group $name-group --members --verbose
group --describe --group $name-none
group --describe --group $name-none --members
echo "- goes on where it was"; printf 'x:101\n' | tool console-producer --bootstrap-server "$b" --topic $name-one --reader-property parse.key=true --reader-property key.separator=:
k console-consumer --topic $name-one --group $name-group --max-messages 1 --timeout-ms 30000 | grep -v Processed
group --describe --group $name-group
echo "- list"; group --list | grep "^$name-"
group --list --state --type | grep -E "^GROUP|^$name-"
group --list --state empty | grep -E "^GROUP|^$name-"
group --list --type Classic | grep -E "^GROUP|^$name-"
group --list --state stable --type consumer | grep -E "^GROUP|^$name-"
echo "- reset"; for to in --to-earliest --to-latest '--to-offset 7' '--to-offset 9999' '--shift-by -5' '--shift-by 500' --to-current '--by-duration PT0S' '--by-duration P1D' \
  '--to-datetime 2020-01-01T00:00:00.000' '--to-datetime 2035-01-01T00:00:00.000'; do
  # shellcheck disable=SC2086
  echo "$to"; group --group $name-group --reset-offsets $to --topic $name-one --execute
done
group --group $name-group --reset-offsets --to-earliest --all-topics --dry-run
group --group $name-group --reset-offsets --to-earliest --topic $name-one:1 --execute
rows --group $name-group --reset-offsets --to-offset 3 --topic $name-one:0,1 --topic $name-two --execute
group --group $name-new --reset-offsets --to-latest --topic $name-two --execute
group --group $name-group --reset-offsets --to-latest --topic $name-none --execute
group --describe --group $name-group
echo "- export"; rows --group $name-group --reset-offsets --to-current --all-topics --export
rows --group $name-group --group $name-new --reset-offsets --to-current --all-topics --export
printf '%s\n' "$name-one,0,11" "$name-one,1,12" > "$files/one.csv"
printf '%s\n' "$name-group,$name-one,0,21" "$name-new,$name-two,0,2" > "$files/two.csv"
group --group $name-group --reset-offsets --from-file "$files/one.csv" --dry-run
group --group $name-group --reset-offsets --from-file "$files/one.csv" --execute
rows --group $name-group --group $name-new --reset-offsets --from-file "$files/two.csv" --execute
rows --describe --group $name-group --group $name-new
echo "- validate regex"; tool consumer-groups --validate-regex 'a.*|b[0-9]+' 2>&1
echo "- delete offsets"; group --delete-offsets --group $name-group --topic $name-one:1
group --delete-offsets --group $name-group --topic $name-two
group --delete-offsets --group $name-group --topic $name-one:7
group --delete-offsets --group $name-none --topic $name-one
group --describe --group $name-group
echo "- delete"; group --delete --group $name-group
group --delete --group $name-none
group --list | grep -c "^$name-group$"
echo "- group settings"; k configs --alter --entity-type groups --entity-name $name-group --add-config consumer.session.timeout.ms=50000
k configs --describe --entity-type groups --entity-name $name-group
k configs --describe --group $name-group --all | grep ' consumer[.]'
k configs --describe --group $name-none
k configs --describe --entity-type groups | grep -A1 "$name-group"
k configs --alter --group $name-group --delete-config consumer.session.timeout.ms
}
observe | sed -E "s/$name-/gt-/g"
[ -z "${LINKS:-}" ] || exit 0
echo "---"
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
  echo "- kcat -G"; timeout 60 kcat -b "$b" -G gt-kcat -o beginning -X auto.offset.reset=earliest -c 101 -q gt-one 2> /dev/null | sort -n | md5sum
fi
