"""Transactions of confluent-kafka (librdkafka) against a broker: python transactions.py HOST:PORT. Prints what a user observes, the same on every broker."""
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

BOOTSTRAP = sys.argv[1]
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})


def say(*words):
    print(*words, flush=True)


def attempt(action, *args):
    try:
        action(*args)
        return "ok"
    except KafkaException as e:
        error = e.args[0]
        return f"{error.name()} fatal {error.fatal()} abort {error.txn_requires_abort()} again {error.retriable()}"


def producer(transactional_id, **config):
    return Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": transactional_id, "linger.ms": 1, **config})


def consumer(**config):
    return Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False, "auto.offset.reset": "earliest", **config})


def read(topic, partitions, isolation):
    """Values of each partition up to the end that readers of this isolation see."""
    c, found = consumer(**{"isolation.level": isolation, "enable.partition.eof": True}), {p: [] for p in range(partitions)}
    c.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])
    ends = set()
    while len(ends) < partitions:
        m = c.poll(30)
        if m is None:
            sys.exit(f"no end of {topic} within 30 s")
        if m.error():
            if m.error().code() != KafkaError._PARTITION_EOF:
                sys.exit(f"{topic}: {m.error()}")
            ends.add(m.partition())
        else:
            found[m.partition()].append(f"{m.offset()}={m.value().decode()}")
    c.close()
    return found


def both(what, topic, partitions):
    for isolation in ("read_committed", "read_uncommitted"):
        say(what, isolation, read(topic, partitions, isolation))


def send(p, topic, values, partitions):
    for i, value in enumerate(values):
        p.produce(topic, value=value, partition=i % partitions)
    assert p.flush(60) == 0


def in_force(topic, partitions):
    """Kafka answers that a topic is made before its partitions take records."""
    for p in range(partitions):
        for _ in range(600):
            try:
                admin.list_offsets({TopicPartition(topic, p): OffsetSpec.latest()})[TopicPartition(topic, p)].result()
                break
            except KafkaException:
                time.sleep(0.1)


def committed(group, topic):
    asked = [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0), TopicPartition(topic, 1)])]
    while True:
        found = next(iter(admin.list_consumer_group_offsets(asked, require_stable=True).values())).result()
        # As long as the marker is on its way: UNSTABLE_OFFSET_COMMIT.
        if all(t.error is None for t in found.topic_partitions):
            break
        time.sleep(0.05)
    return [(t.partition, t.offset, t.metadata) for t in found.topic_partitions]


topics = [NewTopic("tp-in", 2, 1), NewTopic("tp-out", 3, 1), NewTopic("tp-copy", 1, 1)]
for future in admin.create_topics(topics).values():
    future.result()
for topic in topics:
    in_force(topic.topic, topic.num_partitions)

# -- commit, abort, and what readers see in between
p = producer("tp-one")
say("init", attempt(p.init_transactions, 60))
say("commit without begin", attempt(p.commit_transaction, 60))
p.begin_transaction()
say("begin twice", attempt(p.begin_transaction))
send(p, "tp-out", [f"a{i}" for i in range(6)], 3)
both("open", "tp-out", 3)
say("commit", attempt(p.commit_transaction, 60))
both("committed", "tp-out", 3)
p.begin_transaction()
send(p, "tp-out", ["lost0", "lost1"], 2)
say("abort", attempt(p.abort_transaction, 60))
both("aborted", "tp-out", 3)
for end in (p.commit_transaction, p.abort_transaction):
    p.begin_transaction()
    say("empty", attempt(end, 60))
p.begin_transaction()
p.produce("tp-out", value="purged", partition=2)
say("abort at once", attempt(p.abort_transaction, 60))
p.begin_transaction()
send(p, "tp-out", ["after"], 3)
say("commit after", attempt(p.commit_transaction, 60))
say("after", {k: [v.split("=")[1] for v in values] for k, values in read("tp-out", 3, "read_committed").items()})

# -- offsets in transactions
plain = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True})
send(plain, "tp-in", [f"v{i:02}" for i in range(20)], 2)
c = consumer(**{"group.id": "tp-group", "isolation.level": "read_committed"})
c.subscribe(["tp-in"])
copier, read_so_far = producer("tp-copy"), 0
copier.init_transactions(60)
for aborts in (False, True, False, False):
    batch = []
    while len(batch) < 5:
        m = c.poll(30)
        if m is None or m.error():
            sys.exit(f"reading tp-in: {m and m.error()}")
        batch.append(m)
    copier.begin_transaction()
    for m in batch:
        copier.produce("tp-copy", value=m.value(), partition=0)
    position = [TopicPartition(t.topic, t.partition, t.offset, metadata="m") for t in c.position(c.assignment()) if t.offset >= 0]
    copier.send_offsets_to_transaction(position, c.consumer_group_metadata(), 60)
    if aborts:
        copier.abort_transaction(60)
        for t in c.committed(c.assignment(), 60):
            c.seek(TopicPartition(t.topic, t.partition, max(t.offset, 0)))
    else:
        copier.commit_transaction(60)
        read_so_far += len(batch)
        say("copied", read_so_far, sum(offset for _, offset, _ in committed("tp-group", "tp-in") if offset >= 0))
values = [v.split("=")[1] for v in read("tp-copy", 1, "read_committed")[0]]
say("copies", len(values), len(set(values)))

# -- a zombie of the group, a zombie of the transactional id
metadata = c.consumer_group_metadata()
before = committed("tp-group", "tp-in")
c.close()
copier.begin_transaction()
say("zombie member", attempt(copier.send_offsets_to_transaction, [TopicPartition("tp-in", 0, 1)], metadata, 60))
say("its abort", attempt(copier.abort_transaction, 60))
say("unharmed", committed("tp-group", "tp-in") == before)
p.begin_transaction()
send(p, "tp-out", ["zombie"], 3)
q = producer("tp-one")
say("taken over", attempt(q.init_transactions, 60))
say("zombie commits", attempt(p.commit_transaction, 60))
q.begin_transaction()
send(q, "tp-out", ["successor"], 3)
say("successor", attempt(q.commit_transaction, 60))
say("fenced", {k: [v.split("=")[1] for v in values] for k, values in read("tp-out", 3, "read_committed").items()})
say("too long", attempt(producer("tp-long", **{"transaction.timeout.ms": 900_001, "message.timeout.ms": 60_000}).init_transactions, 60))
