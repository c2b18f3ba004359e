"""What survives compaction: python compaction.py HOST:PORT. Prints what a user observes, the same on every broker.

Writes the same batches with the same settings, waits until nothing changes any more, and prints which records are left.
With CORELINE_SURVIVORS=FILE all of them are written there, for a comparison line by line.
"""
import hashlib
import os
import random
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import OFFSET_BEGINNING
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, OffsetSpec, ResourceType,
)

BOOTSTRAP = sys.argv[1]
T = int(time.time() * 1000) - 60_000
SETTLED_S = 8
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
dump = open(os.environ.get("CORELINE_SURVIVORS", os.devnull), "w", encoding="utf-8")


def say(*words):
    print(*words, flush=True)


def clean_often():
    """At run time: the default of 15 s between two looks is too long for a test."""
    entry = ConfigEntry("log.cleaner.backoff.ms", "500", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.BROKER, "1", incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def make(name, **settings):
    config = {"cleanup.policy": "compact", "segment.bytes": "1048576", "min.cleanable.dirty.ratio": "0.01"}
    config.update({key.replace("_", "."): value for key, value in settings.items()})
    for future in admin.create_topics([NewTopic(name, 1, 1, config=config)]).values():
        future.result()


def produce(name, seed, batches, first=0, keys=40, tombstones=0.1, size=4000, idempotent=False, codec="none"):
    """Batches of 1 to 12 records; one flush a batch. Gives how many records there were."""
    rng = random.Random(seed)
    producer = Producer({
        "bootstrap.servers": BOOTSTRAP, "linger.ms": 10_000, "compression.type": codec,
        "enable.idempotence": idempotent, "acks": "all", "batch.num.messages": 100,
    })
    # The client knows the partition: what is sent then waits for the flush, and is one batch.
    producer.list_topics(name)
    sent = first
    failed = []
    for _ in range(batches):
        for _ in range(rng.randint(1, 12)):
            key = b"key-%d" % rng.randrange(keys)
            # Half of it is air: librdkafka leaves a batch as it is where compression gains nothing.
            value = None if rng.random() < tombstones else rng.randbytes(rng.randint(1, size // 2)).hex().encode()
            producer.produce(name, value, key, timestamp=T + sent,
                             on_delivery=lambda error, _: failed.append(error) if error else None)
            sent += 1
        producer.flush()
    if failed:
        say(name, "failed", failed[0])
    return sent


def left(name):
    """Every record that can be read: offset, key, value, time."""
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False})
    _, end = consumer.get_watermark_offsets(TopicPartition(name, 0))
    consumer.assign([TopicPartition(name, 0, OFFSET_BEGINNING)])
    found = []
    while consumer.position([TopicPartition(name, 0)])[0].offset < end:
        message = consumer.poll(3)
        if message is None:
            break
        found.append((message.offset(), message.key(), message.value(), message.timestamp()[1] - T))
    consumer.close()
    return found


def settled(name):
    """What is left once it did not change for a while."""
    before, since = None, time.monotonic()
    while time.monotonic() - since < SETTLED_S:
        found = left(name)
        if found != before:
            before, since = found, time.monotonic()
        time.sleep(1)
    return before


def tell(name, found, tombstones=True):
    found = [f for f in found if tombstones or f[2] is not None]
    digest = hashlib.sha256(repr(found).encode()).hexdigest()[:16]
    nothing = sum(1 for f in found if f[2] is None)
    say(name, f"{len(found)} records left, {nothing} of them tombstones, offsets {found[0][0]} to {found[-1][0]}, {digest}")
    for offset, key, value, at in found:
        content = "-" if value is None else f"{len(value)} {hashlib.sha256(value).hexdigest()[:8]}"
        print(name, offset, key.decode(), content, at, file=dump)


def by_time(name, sent):
    """The first record at or after some times, over gaps and inside batches that were rewritten."""
    answers = []
    for at in range(0, sent, max(1, sent // 12)):
        spec = {TopicPartition(name, 0): OffsetSpec.for_timestamp(T + at)}
        result = next(iter(admin.list_offsets(spec).values())).result()
        answers.append((at, result.offset, result.timestamp - T if result.timestamp >= 0 else -1))
    say(name, "by time", answers)


def main():
    clean_often()
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        name = f"compacted-{codec}"
        make(name)
        # Nothing is asked by time: Kafka 4.2 finds nothing where a segment before it was compacted to nothing.
        produce(name, 1, 350 if codec == "none" else 700, codec=codec)
        tell(name, settled(name))
    make("compacted-idempotent")
    sent = produce("compacted-idempotent", 2, 400, idempotent=True, keys=300)
    tell("compacted-idempotent", settled("compacted-idempotent"))
    by_time("compacted-idempotent", sent)
    # Tombstones go in the first cleaning after their horizon: a second part of the log brings it about.
    name = "compacted-tombstones"
    make(name, delete_retention_ms="1", segment_bytes="1048576")
    sent = produce(name, 3, 200, tombstones=0.5, size=8000, keys=60)
    settled(name)
    produce(name, 4, 200, first=sent, tombstones=0.0, size=8000, keys=20)
    # Which tombstones are gone by now depends on how often the cleaner came by; the records are the same.
    tell(name, settled(name), tombstones=False)
    name = "compacted-lag"
    make(name, min_compaction_lag_ms="3600000")
    produce(name, 5, 300)
    tell(name, settled(name))
    # Changed while it runs.
    entry = ConfigEntry("min.compaction.lag.ms", "0", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    tell(name, settled(name))
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "compression.type": "gzip"})
    seen = []
    producer.produce(name, b"value", None, on_delivery=lambda error, _: seen.append(error))
    producer.flush()
    say("without a key:", seen[0].name() if seen[0] else "taken")


try:
    main()
except KafkaException as e:
    say("failed:", e)
    sys.exit(1)
