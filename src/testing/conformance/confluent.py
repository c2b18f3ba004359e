"""confluent-kafka (librdkafka) against a broker: python confluent.py HOST:PORT. Prints what a user observes, the same on every broker."""
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType,
)

BOOTSTRAP = sys.argv[1]
# Record timestamps, in milliseconds: recent, or retention would take the records away.
T = int(time.time() * 1000) - 60_000
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})


def say(*words):
    print(*words, flush=True)


def outcome(futures):
    """name -> 'ok' or the error's name, in order of name."""
    found = {}
    for key, future in futures.items():
        try:
            future.result()
            found[str(key)] = "ok"
        except KafkaException as e:
            found[str(key)] = e.args[0].name()
    return dict(sorted(found.items()))


def wait_until(what, condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"waited {seconds} s for {what}")
        time.sleep(0.05)


def produce(topic, records, **config):
    """Sends records (dicts for Producer.produce) and returns the outcome of each in order."""
    results = [None] * len(records)

    def on_delivery(i):
        def report(error, message):
            results[i] = error.name() if error else (message.partition(), message.offset())
        return report

    producer = Producer({"bootstrap.servers": BOOTSTRAP, "linger.ms": 5, **config})
    for i, record in enumerate(records):
        producer.produce(topic, on_delivery=on_delivery(i), **record)
        producer.poll(0)
    assert producer.flush(60) == 0
    return results


def consumer(**config):
    return Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False,
                     "auto.offset.reset": "error", "enable.partition.eof": True, **config})


def consume(topic, partition, offset, **config):
    """All records of a partition from an offset to its end."""
    c, found = consumer(**config), []
    c.assign([TopicPartition(topic, partition, offset)])
    end = time.monotonic() + 60
    while time.monotonic() < end:
        message = c.poll(1)
        if message is None:
            continue
        if message.error():
            if message.error().code() == KafkaError._PARTITION_EOF:
                break
            found.append(message.error().name())
            break
        found.append(message)
    else:
        sys.exit(f"no end of {topic}-{partition} within 60 s")
    c.close()
    return found


# -- topics
say("create", outcome(admin.create_topics([NewTopic("cf-a", 3, 1), NewTopic("cf-b", 1, 1), NewTopic("cf-large", 1, 1)])))
say("create again", outcome(admin.create_topics([NewTopic("cf-a", 3, 1)])))
say("create invalid", outcome(admin.create_topics([NewTopic("bad name!", 1, 1), NewTopic("cf_a" * 70, 1, 1)])))
say("create colliding", outcome(admin.create_topics([NewTopic("x.y", 1, 1)])), outcome(admin.create_topics([NewTopic("x_y", 1, 1)])))
say("create too many replicas", outcome(admin.create_topics([NewTopic("cf-r", 1, 3)])))
say("create validate only", outcome(admin.create_topics([NewTopic("cf-v", 1, 1)], validate_only=True)))
say("create with config", outcome(admin.create_topics([NewTopic("cf-c", 1, 1, config={"segment.bytes": "2097152"})])))
say("create with unknown config", outcome(admin.create_topics([NewTopic("cf-d", 1, 1, config={"no.such": "1"})])))
say("create with bad config", outcome(admin.create_topics([NewTopic("cf-d", 1, 1, config={"segment.bytes": "-5"})])))
wait_until("topics in metadata", lambda: {"cf-a", "cf-b", "cf-c"} <= set(admin.list_topics(timeout=10).topics))
say("topics", sorted(t for t in admin.list_topics(timeout=10).topics if t.startswith("cf-")))
say("partitions", sorted(admin.list_topics("cf-a", timeout=10).topics["cf-a"].partitions))

# -- produce: every codec, every acks
for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
    for acks in ["0", "1", "all"]:
        records = [{"key": f"{codec}-{acks}-{i}", "value": "v" * 100 + str(i), "partition": 0} for i in range(50)]
        results = produce("cf-b", records, **{"compression.type": codec, "acks": acks})
        assert len(results) == 50
        if acks != "0":
            say("produce", codec, acks, results[0], results[-1])
records = consume("cf-b", 0, OFFSET_BEGINNING)
say("consumed", len(records), "contiguous", [m.offset() for m in records] == list(range(len(records))))
say("values kept", all(m.value().decode() == "v" * 100 + m.key().decode().rsplit("-", 1)[1] for m in records))

# -- idempotence, headers, tombstones, keys, timestamps
results = produce("cf-a", [{"key": str(i), "value": str(i), "partition": 1} for i in range(1000)],
                  **{"enable.idempotence": True, "batch.num.messages": 10})
say("idempotent", results == [(1, i) for i in range(1000)])
produce("cf-a", [
    {"key": "h", "value": "x", "partition": 2, "headers": [("a", b"1"), ("b", None), ("a", b"2")], "timestamp": T + 1000},
    {"key": "tombstone", "value": None, "partition": 2, "timestamp": T + 2000},
    {"key": None, "value": b"", "partition": 2, "timestamp": T + 3000},
])
for m in consume("cf-a", 2, OFFSET_BEGINNING):
    say("record", m.key(), m.value(), m.headers(), m.timestamp()[0], m.timestamp()[1] - T)

# -- large messages
say("large", produce("cf-large", [{"value": b"L" * 900_000}]), [len(m.value()) for m in consume("cf-large", 0, 0)])
say("too large", produce("cf-large", [{"value": b"L" * 2_000_000}], **{"message.max.bytes": 5_000_000}))
say("large again", produce("cf-large", [{"value": b"M" * 900_000}]))
say("fetched in small bites", [len(m.value()) for m in consume("cf-large", 0, 0, **{"fetch.message.max.bytes": 1000})])

# -- offsets
c = consumer()
say("watermarks", c.get_watermark_offsets(TopicPartition("cf-a", 1), timeout=10))
times = c.offsets_for_times([TopicPartition("cf-a", 2, T + 1500), TopicPartition("cf-a", 2, 9_999_999_999_999)], timeout=10)
say("offsets for times", [(t.offset, t.error) for t in times])
c.assign([TopicPartition("cf-a", 1, 0)])
wait_until("assignment", lambda: c.poll(0.2) is not None)
c.seek(TopicPartition("cf-a", 1, 990))
seen = []
wait_until("record 999", lambda: (lambda m: m is not None and not m.error() and (seen.append(m.offset()) or m.offset() == 999))(c.poll(0.2)))
say("seek", [o for o in seen if o >= 990][-10:])
c.close()
say("out of range", [str(x) for x in consume("cf-a", 1, 5000)])
specs = {TopicPartition("cf-a", 2): OffsetSpec.latest()}
say("list latest", [f.result().offset for f in admin.list_offsets(specs).values()])
specs = {TopicPartition("cf-a", 2): OffsetSpec.earliest()}
say("list earliest", [f.result().offset for f in admin.list_offsets(specs).values()])
specs = {TopicPartition("cf-a", 2): OffsetSpec.max_timestamp()}
say("list max timestamp", [(f.result().offset, f.result().timestamp - T) for f in admin.list_offsets(specs).values()])
specs = {TopicPartition("cf-a", 2): OffsetSpec.for_timestamp(T + 2000)}
say("list by timestamp", [(f.result().offset, f.result().timestamp - T) for f in admin.list_offsets(specs).values()])

# -- configs
KEYS = ["segment.bytes", "max.message.bytes", "message.timestamp.type", "segment.ms", "retention.ms", "retention.bytes",
        "cleanup.policy", "file.delete.delay.ms", "segment.jitter.ms"]


def describe(topic):
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entries = admin.describe_configs([resource])[resource].result()
    return {k: (entries[k].value, entries[k].source, entries[k].is_read_only, entries[k].is_sensitive) for k in KEYS}


say("configs", describe("cf-c"))
change = ConfigResource(ResourceType.TOPIC, "cf-c", incremental_configs=[
    ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)])
say("alter", outcome(admin.incremental_alter_configs([change])))
wait_until("config", lambda: describe("cf-c")["max.message.bytes"][0] == "1000")
say("limit obeyed", produce("cf-c", [{"value": b"x" * 5000}]), produce("cf-c", [{"value": b"x" * 500}]))
change = ConfigResource(ResourceType.TOPIC, "cf-c", incremental_configs=[
    ConfigEntry("max.message.bytes", None, incremental_operation=AlterConfigOpType.DELETE)])
say("delete config", outcome(admin.incremental_alter_configs([change])))
wait_until("config", lambda: describe("cf-c")["max.message.bytes"][0] != "1000")
say("configs", describe("cf-c"))
bad = ConfigResource(ResourceType.TOPIC, "cf-c", incremental_configs=[
    ConfigEntry("segment.bytes", "x", incremental_operation=AlterConfigOpType.SET)])
say("alter bad", list(outcome(admin.incremental_alter_configs([bad])).values()))
missing = ConfigResource(ResourceType.TOPIC, "cf-nowhere")
say("describe missing", list(outcome(admin.describe_configs([missing])).values()))

# -- records deleted on request, by size and by age
produce("cf-c", [{"value": f"r{i}"} for i in range(20)])


def first(topic):
    return consumer().get_watermark_offsets(TopicPartition(topic, 0), timeout=10)


def delete_records(topic, offset, partition=0):
    place = TopicPartition(topic, partition, offset)
    try:
        return admin.delete_records([place])[place].result().low_watermark
    except KafkaException as e:
        return e.args[0].name()


before = first("cf-c")
say("deleted to 5", delete_records("cf-c", 5), first("cf-c"), before)
say("deleted to 3", delete_records("cf-c", 3), first("cf-c"))
say("deleted too far", delete_records("cf-c", 1000), delete_records("cf-c", 0, 7), first("cf-c"))
say("read what is gone", [str(x) for x in consume("cf-c", 0, 2)])
say("read from the start", [m.offset() for m in consume("cf-c", 0, OFFSET_BEGINNING)][:3])
say("deleted to the end", delete_records("cf-c", OFFSET_END), first("cf-c"))
say("and on", produce("cf-c", [{"value": b"next"}]), [m.offset() for m in consume("cf-c", 0, OFFSET_BEGINNING)])
small = {"segment.bytes": "1048576", "file.delete.delay.ms": "1000"}
say("create", outcome(admin.create_topics([
    NewTopic("cf-size", 1, 1, config={"retention.bytes": "2000000", **small}),
    NewTopic("cf-age", 1, 1, config={"retention.ms": "3600000", **small}),
    NewTopic("cf-policy", 1, 1, config={"cleanup.policy": "none"}),
])))
wait_until("topics", lambda: {"cf-size", "cf-age"} <= set(admin.list_topics(timeout=10).topics))
for i in range(5):
    produce("cf-size", [{"value": b"S" * 900_000}])
    produce("cf-age", [{"value": b"A" * 900_000, "timestamp": T - 10 * 86_400_000}])
wait_until("retention by size", lambda: first("cf-size")[0] == 2, 60)
wait_until("retention by age", lambda: first("cf-age")[0] == 5, 60)
say("kept by size", first("cf-size"), [m.offset() for m in consume("cf-size", 0, OFFSET_BEGINNING)])
say("kept by age", first("cf-age"), produce("cf-age", [{"value": b"new"}]), [m.offset() for m in consume("cf-age", 0, 5)])

# -- partitions, cluster, deletion
say("more partitions", outcome(admin.create_partitions([NewPartitions("cf-b", 4)])))
say("fewer partitions", outcome(admin.create_partitions([NewPartitions("cf-b", 2)])))
wait_until("partitions", lambda: len(admin.list_topics("cf-b", timeout=10).topics["cf-b"].partitions) == 4)
say("new partition", produce("cf-b", [{"value": b"x", "partition": 3}]))
say("unknown partition", [e if isinstance(e, str) else "delivered" for e in produce("cf-b", [{"value": b"x", "partition": 9}], **{"message.timeout.ms": 3000})])
cluster = admin.describe_cluster().result()
say("cluster", len(cluster.nodes), "controller known", cluster.controller is not None, "id", len(cluster.cluster_id))
say("delete", outcome(admin.delete_topics(["cf-a"])))
wait_until("deletion", lambda: "cf-a" not in admin.list_topics(timeout=10).topics)
say("delete missing", outcome(admin.delete_topics(["cf-nowhere"])))
say("create after deletion", outcome(admin.create_topics([NewTopic("cf-a", 1, 1)])))
wait_until("topic", lambda: "cf-a" in admin.list_topics(timeout=10).topics)
say("empty again", produce("cf-a", [{"value": b"first"}]))
