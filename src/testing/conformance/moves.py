"""Partitions go from core to core while librdkafka produces (idempotent), consumes in a group and commits transactions:
python moves.py HOST:PORT. Kafka has no cores: there the same program runs with nothing moving."""
import os
import subprocess
import sys
import threading

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP, BIN = sys.argv[1], os.environ.get("CORELINE_BIN", "coreline")
TOPIC, PARTITIONS, RECORDS, BATCH = "moves", 3, 6000, 100
done, moved, refused = threading.Event(), 0, []


def coreline(*arguments):
    return subprocess.run([BIN, "partition", *arguments, "--bootstrap-server", BOOTSTRAP], capture_output=True, text=True)


def move():
    """Each in turn to the core after its own; a broker without cores says that it does not know the request."""
    global moved
    said = coreline("describe", "--topic", TOPIC)
    if said.returncode != 0:
        return
    cores = int(said.stdout.split()[-1])
    at = {int(line.split()[0].rsplit("-", 1)[1]): int(line.split()[4]) for line in said.stdout.splitlines()}
    while cores > 1 and not done.is_set():
        for p in at:
            at[p] = (at[p] + 1) % cores
            said = coreline("move", "--topic", TOPIC, "--partition", str(p), "--to-core", str(at[p]))
            moved += 1
            if said.returncode != 0:
                refused.append(said.stderr)
                return


admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result()
mover = threading.Thread(target=move)
mover.start()

failed = []
plain = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True, "linger.ms": 1})
transactional = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": "moves", "linger.ms": 1})
transactional.init_transactions(60)
consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "moves", "auto.offset.reset": "earliest",
                     "isolation.level": "read_committed", "enable.auto.commit": False})
consumer.subscribe([TOPIC])
note = lambda error, _: failed.append(str(error)) if error else None
seen = {(who, p): [] for who in "pt" for p in range(PARTITIONS)}


def read(seconds):
    for message in consumer.consume(500, seconds):
        if message.error():
            failed.append(str(message.error()))
            continue
        who, number = message.value().decode().split(" ")
        seen[who, message.partition()].append(int(number))


for first in range(0, RECORDS, BATCH):
    transactional.begin_transaction()
    for number in range(first, first + BATCH):
        plain.produce(TOPIC, f"p {number}", partition=number % PARTITIONS, callback=note)
        transactional.produce(TOPIC, f"t {number}", partition=number % PARTITIONS, callback=note)
    # Every third is taken back, when all of it has come: librdkafka ends one whose partitions still wait for the end of the transaction
    # before, too, and Kafka on a busy machine then knows of none to end (INVALID_TXN_STATE, which is fatal).
    if first // BATCH % 3 == 2:
        transactional.flush(60)
        transactional.abort_transaction(60)
    else:
        transactional.commit_transaction(60)
    plain.poll(0)
    read(0.01)
print("left in the producer:", plain.flush(60))
wanted = {("p", p): [n for n in range(RECORDS) if n % PARTITIONS == p] for p in range(PARTITIONS)}
wanted |= {("t", p): [n for n in wanted["p", p] if n // BATCH % 3 != 2] for p in range(PARTITIONS)}
for _ in range(600):
    if all(len(seen[key]) >= len(wanted[key]) for key in wanted):
        break
    read(0.1)
consumer.commit(asynchronous=False)
done.set()
mover.join()
for key in sorted(wanted):
    print(key, "in order, each once" if seen[key] == wanted[key] else f"{len(seen[key])} of {len(wanted[key])}: {seen[key][:20]}")
consumer.close()
# An abort purges what waits in the producer: that is no failure of the broker.
print("failed:", sorted({error for error in failed if "PURGE" not in error}))
print("refused moves:", refused)
print(f"{moved} moves", file=sys.stderr)
