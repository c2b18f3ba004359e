"""Clients of all cores at once, through confluent-kafka (librdkafka): python cores.py HOST:PORT TOPIC PARTITIONS. See cores.sh."""
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP, TOPIC, PARTITIONS = sys.argv[1], sys.argv[2], int(sys.argv[3])
EVERY = list(range(PARTITIONS))


def consumer(group, **config):
    return Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group, "enable.auto.commit": False,
                     "auto.offset.reset": "earliest", **config})


def read(consumers, count, done=lambda: True, seconds=120):
    """Polls all in turn until they have seen `count` records and `done`."""
    got, end = set(), time.monotonic() + seconds
    while len(got) < count or not done():
        if time.monotonic() > end:
            sys.exit(f"{len(got)} of {count} records after {seconds} s; assigned: {[c.assignment() for c in consumers]}")
        for c in consumers:
            message = c.poll(0.02)
            if message and not message.error():
                got.add((message.partition(), message.offset(), message.value().decode()))
    return got


# A group of two that shares the partitions of all cores.
members = [consumer("cores-members", **{"partition.assignment.strategy": "range"}) for _ in range(2)]
for member in members:
    member.subscribe([TOPIC])
halves = lambda: [len(m.assignment()) for m in members] == [PARTITIONS // 2] * 2
values = sorted(int(value) for _, _, value in read(members, 1000, halves))
assert values == list(range(1, 1001)), f"{len(values)} values"
shared = sorted(p.partition for m in members for p in m.assignment())
assert shared == EVERY, shared
for member in members:
    member.commit(asynchronous=False)
    member.close()

# Coordinators are on all cores.
for i in range(16):
    one = consumer(f"cores-of-{i}")
    one.commit(offsets=[TopicPartition(TOPIC, p, 1) for p in EVERY], asynchronous=False)
    committed = one.committed([TopicPartition(TOPIC, p) for p in EVERY], timeout=60)
    assert [p.offset for p in committed] == [1] * PARTITIONS, committed
    one.close()

# Transactions over the partitions of all cores: one that ends well, one that does not.
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
admin.create_topics([NewTopic("cores-x", PARTITIONS, 1)])["cores-x"].result()
producer = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": "cores-python"})
producer.init_transactions(60)
for value, end in [("kept", producer.commit_transaction), ("dropped", producer.abort_transaction), ("kept too", producer.commit_transaction)]:
    producer.begin_transaction()
    for p in EVERY:
        producer.produce("cores-x", value=value, partition=p)
    producer.flush(60)
    end(60)
reader = consumer("cores-none", **{"isolation.level": "read_committed"})
reader.assign([TopicPartition("cores-x", p, 0) for p in EVERY])
seen = sorted((p, value) for p, _, value in read([reader], 2 * PARTITIONS))
assert seen == sorted((p, value) for p in EVERY for value in ("kept", "kept too")), seen
reader.close()
