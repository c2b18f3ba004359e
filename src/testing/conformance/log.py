"""What a topic's log does as it is configured: python log.py HOST:PORT. Prints what a user observes, the same on every broker.

Every key of a topic with default, source, synonyms; values that are refused; how batches are stored by compression.type;
which records are too large, too old or too new; what changes at run time, by topic and by broker; what grows old; ListOffsets.
"""
import random
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from raw_probe import Connection, carray, cstring, fetch, header, i8, i32, i64, outcome

BOOTSTRAP = sys.argv[1]
NOW = int(time.time() * 1000)
PATIENCE_S = 60
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
TOPIC, BROKER = 2, 4
KINDS = {1: "boolean", 2: "string", 3: "int", 4: "short", 5: "long", 6: "double", 7: "list"}
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})


def say(*words):
    print(*words, flush=True)


def make(name, **settings):
    config = {key.replace("_", "."): value for key, value in settings.items()}
    for future in admin.create_topics([NewTopic(name, 1, 1, config=config)]).values():
        future.result()


def alter(kind, name, **settings):
    """None takes a value back. Gives the error's code."""
    configs = [cstring(key if "." in key else key.replace("_", ".")) + i8(0 if value is not None else 1) + cstring(value) + b"\0"
               for key, value in settings.items()]
    ask = header(44, 1, True) + carray([i8(kind) + cstring(name) + carray(configs) + b"\0"]) + i8(0) + b"\0"

    def answer(r):
        r.tags(), r.i32()
        r.uvarint()
        return r.i16()
    with Connection(BOOTSTRAP) as connection:
        return outcome(connection.ask(ask), answer)


def eventually(ask, wanted):
    """What is set at run time is obeyed a moment later. Gives the last answer."""
    end = time.monotonic() + PATIENCE_S
    while True:
        found = ask()
        if found == wanted or time.monotonic() > end:
            return found
        time.sleep(0.1)


# ---- every key ----

def describe(name):
    """DescribeConfigs version 4: types, too."""
    ask = header(32, 4, True) + b"\2" + i8(2) + bytes([len(name) + 1]) + name.encode() + b"\0\0" + b"\1\0\0"
    with Connection(BOOTSTRAP) as connection:
        return outcome(connection.ask(ask), described)


def described(r):
    r.tags()
    r.i32()

    def synonym():
        got = r.cstring(), r.cstring(), r.i8()
        r.tags()
        return got

    def config():
        name, value, read_only, source, sensitive = r.cstring(), r.cstring(), r.i8(), r.i8(), r.i8()
        synonyms = r.carray(synonym)
        kind, _document = r.i8(), r.cstring()
        r.tags()
        return name, value, read_only, source, sensitive, synonyms, KINDS.get(kind, kind)

    def resource():
        error, _, kind, name = r.i16(), r.cstring(), r.i8(), r.cstring()
        configs = r.carray(config)
        r.tags()
        return error, kind, name, configs
    return r.carray(resource)


def every_key():
    make("log-keys", compression_type="lz4", preallocate="true", min_insync_replicas="1", local_retention_ms="5")
    [(error, _, _, configs)] = describe("log-keys")
    say("keys", error)
    for name, value, read_only, source, sensitive, synonyms, kind in sorted(configs):
        if name.startswith("coreline."):
            continue
        # A new Kafka cluster writes min.insync.replicas=1 as a setting of all brokers.
        synonyms = [s for s in synonyms if s != ("min.insync.replicas", "1", 3)]
        say(" ", name, kind, repr(value), "source", source, "read only", read_only, "sensitive", sensitive, synonyms)


REFUSALS = [
    ("compression.type", ["producer", "gzip", "zstd", "uncompressed", "brotli", "", "none"]),
    ("compression.gzip.level", ["-1", "1", "9", "0", "10", "x"]),
    ("compression.lz4.level", ["1", "17", "0", "18"]),
    ("compression.zstd.level", ["-131072", "22", "0", "23", "-131073"]),
    ("cleanup.policy", ["delete", "compact", "compact,delete", "", "delete,delete", "shrink"]),
    ("min.cleanable.dirty.ratio", ["0", "1", "0.3", "1.1", "-0.1"]),
    ("min.compaction.lag.ms", ["0", "-1"]),
    ("max.compaction.lag.ms", ["1", "0"]),
    ("delete.retention.ms", ["0", "-1"]),
    ("retention.ms", ["-1", "0", "-2", "1.5"]),
    ("retention.bytes", ["-1", "-7", "9223372036854775808"]),
    ("file.delete.delay.ms", ["0", "-1"]),
    ("segment.bytes", ["1048576", "1048575", "2147483648"]),
    ("segment.ms", ["1", "0"]),
    ("segment.jitter.ms", ["0", "-1"]),
    ("segment.index.bytes", ["4", "3"]),
    ("index.interval.bytes", ["0", "-1"]),
    ("max.message.bytes", ["0", "-1"]),
    ("message.timestamp.type", ["CreateTime", "LogAppendTime", "createtime"]),
    ("message.timestamp.before.max.ms", ["0", "-1"]),
    ("message.timestamp.after.max.ms", ["0", "-1"]),
    ("min.insync.replicas", ["1", "2", "0"]),
    ("preallocate", ["true", "false", "yes"]),
    ("unclean.leader.election.enable", ["true", "false", "1"]),
    ("flush.messages", ["1", "0"]),
    ("flush.ms", ["0", "-1"]),
    ("leader.replication.throttled.replicas", ["*", "0:1,1:1", "", "xyz", "0"]),
    ("follower.replication.throttled.replicas", ["0:1", "1:"]),
    ("remote.storage.enable", ["false", "true"]),
    ("remote.log.copy.disable", ["true", "false"]),
    ("remote.log.delete.on.disable", ["true", "false"]),
    ("local.retention.ms", ["-2", "1000", "-3"]),
    ("local.retention.bytes", ["-2", "5", "-3"]),
    ("no.such.key", ["1"]),
]


def values():
    make("log-values")
    for key, texts in REFUSALS:
        answers = [alter(TOPIC, "log-values", **{key: text}) for text in texts]
        say("set", key, list(zip(texts, answers)), "taken back:", alter(TOPIC, "log-values", **{key: None}))
    say("lags", alter(TOPIC, "log-values", min_compaction_lag_ms="50", max_compaction_lag_ms="40"))
    try:
        make("log-lags", min_compaction_lag_ms="50", max_compaction_lag_ms="40")
    except KafkaException as error:
        say("lags of a new topic", error.args[0].name())


# ---- how batches are stored ----

def stored(name, offset=0):
    """Base offset, codec, records, kind of time of each batch."""
    with Connection(BOOTSTRAP) as connection:
        r = connection.ask(fetch(4, [(name, [(0, offset, -1)])]))
    r.i32()
    found = []

    def partition():
        r.i32(), r.i16(), r.i64(), r.i64()
        r.array(lambda: (r.i64(), r.i64()))
        records = r.data() or b""
        at = 0
        while at + 61 <= len(records):
            size = 12 + int.from_bytes(records[at + 8:at + 12], "big")
            attributes = int.from_bytes(records[at + 21:at + 23], "big")
            count = int.from_bytes(records[at + 57:at + 61], "big")
            base = int.from_bytes(records[at:at + 8], "big")
            found.append((base, CODECS[attributes & 7], count, "append" if attributes & 8 else "create"))
            at += size
    r.array(lambda: (r.string(), r.array(partition)))
    return found


def known(producer, name):
    """The client knows the partition: what is sent then waits for the flush, and is one batch."""
    producer.list_topics(name, PATIENCE_S)


def send(name, codec, records, idempotent=True, first=NOW - 5000):
    """One batch; the error, or where it went."""
    got = []
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "linger.ms": 10_000, "compression.type": codec, "acks": "all",
                         "enable.idempotence": idempotent, "message.max.bytes": 4_000_000, "retries": 0 if not idempotent else 5})
    known(producer, name)
    for n, (key, value) in enumerate(records):
        producer.produce(name, value, key, timestamp=first + n, headers=[("h", b"%d" % n)],
                         on_delivery=lambda error, message: got.append(error.name() if error else message.offset()))
    producer.flush(PATIENCE_S)
    return got


def read(name):
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False})
    _, end = consumer.get_watermark_offsets(TopicPartition(name, 0))
    consumer.assign([TopicPartition(name, 0, 0)])
    found = []
    while not found or found[-1][0] < end - 1:
        message = consumer.poll(5)
        if message is None:
            break
        kind, at = message.timestamp()
        found.append((message.offset(), message.key(), message.value(), at - NOW if kind == 1 else "append", message.headers()))
    consumer.close()
    return found


def compression():
    rng = random.Random(5)
    records = [(b"key-%d" % n, rng.randbytes(60).hex().encode() * 4) for n in range(20)]
    for kind in ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]:
        name = f"log-as-{kind}"
        make(name, compression_type=kind, **{"compression.zstd.level": "9", "compression.gzip.level": "1"})
        for codec in CODECS:
            send(name, codec, records)
        found = read(name)
        expected = [(k, v) for _ in CODECS for k, v in records]
        say("compression.type", kind, stored(name), "read back", [(k, v) for _, k, v, _, _ in found] == expected,
            "offsets", [o for o, *_ in found] == list(range(100)), "times", sorted({t for *_, t, _ in found})[::5],
            "headers", sorted({h[0][1] for *_, h in found})[:3])
    make("log-as-stamped", compression_type="zstd", message_timestamp_type="LogAppendTime")
    send("log-as-stamped", "gzip", records)
    say("compressed and stamped", stored("log-as-stamped"), {t for *_, t, _ in read("log-as-stamped")})
    # A change holds from the next batch on.
    make("log-as-changing")
    for kind in ["gzip", "producer", "lz4"]:
        alter(TOPIC, "log-as-changing", compression_type=kind)
        at = [0]

        def last():
            send("log-as-changing", "snappy", records[:3])
            found = stored("log-as-changing", at[0])
            at[0] = found[-1][0] + found[-1][2]
            return found[-1][1]
        say("changed to", kind, eventually(last, "snappy" if kind == "producer" else kind))
    # Too large only once it is stored as the topic says.
    make("log-as-large", compression_type="uncompressed", max_message_bytes="20000")
    say("too large uncompressed", send("log-as-large", "zstd", [(b"k", b"0" * 30_000)], idempotent=False))
    say("small enough", send("log-as-large", "zstd", [(b"k", b"0" * 10_000)], idempotent=False))


# ---- what is taken ----

def limits():
    make("log-limits", message_timestamp_before_max_ms="60000", message_timestamp_after_max_ms="60000", max_message_bytes="5000")
    for codec in ["none", "lz4"]:
        for early, late in [(-59_000, 50_000), (-70_000, 0), (0, 70_000), (-70_000, 70_000)]:
            now = int(time.time() * 1000)
            got = []
            producer = Producer({"bootstrap.servers": BOOTSTRAP, "linger.ms": 10_000, "compression.type": codec, "retries": 0,
                                 "enable.idempotence": False})
            known(producer, "log-limits")
            for at in (early, 0, late):
                producer.produce("log-limits", b"v" * 100, b"k", timestamp=now + at,
                                 on_delivery=lambda error, _: got.append(error.name() if error else "taken"))
            producer.flush(PATIENCE_S)
            say("times", codec, early, late, got)
    say("4 KB", send("log-limits", "none", [(b"k", b"v" * 4000)], idempotent=False, first=int(time.time() * 1000)))
    say("6 KB", send("log-limits", "none", [(b"k", b"v" * 6000)], idempotent=False, first=int(time.time() * 1000)))
    say("set", alter(TOPIC, "log-limits", max_message_bytes="10000"))
    size = lambda: isinstance(send("log-limits", "none", [(b"k", b"v" * 6000)], False, int(time.time() * 1000))[0], int)
    say("6 KB after a change", eventually(size, True))
    make("log-strict", min_insync_replicas="3")
    say("min.insync.replicas above the replicas", send("log-strict", "none", [(b"k", b"v")]))


def by_broker():
    """Settings of all brokers are what topics obey that have none of their own."""
    make("log-plain")
    small = lambda: isinstance(send("log-plain", "none", [(b"k", b"v" * 3000)], False)[0], str)
    say("max.message.bytes for all", alter(BROKER, "", message_max_bytes="2000"), eventually(small, True))
    say("taken back", alter(BROKER, "", message_max_bytes=None), eventually(small, False))
    codec = lambda: (send("log-plain", "snappy", [(b"k", b"v" * 500)] * 3), stored("log-plain")[-1][1])[1]
    say("compression for this one", alter(BROKER, "1", compression_type="gzip"), eventually(codec, "gzip"))
    say("taken back", alter(BROKER, "1", compression_type=None), eventually(codec, "snappy"))
    for key, value in [("log.segment.bytes", "1048575"), ("log.retention.ms", "0"), ("log.preallocate", "true"),
                       ("compression.zstd.level", "99"), ("log.message.timestamp.type", "Never"), ("log.roll.ms", "0"),
                       ("log.index.interval.bytes", "-1"), ("log.cleaner.min.cleanable.ratio", "2"),
                       ("log.local.retention.ms", "-3"), ("unclean.leader.election.enable", "true")]:
        say("all brokers", key, value, alter(BROKER, "", **{key: value}),
            alter(BROKER, "", **{key: None}))


# ---- what grows old, and where offsets are ----

def ends(name):
    return tuple(offset(name, at) for at in (-2, -1))


def offset(name, at):
    """ListOffsets version 8: error, time, offset."""
    ask = header(2, 8, True) + i32(-1) + i8(0) + b"\2" + bytes([len(name) + 1]) + name.encode()
    ask += b"\2" + i32(0) + i32(-1) + i64(at) + b"\0\0" + b"\0"
    with Connection(BOOTSTRAP) as connection:
        r = connection.ask(ask)
    r.tags(), r.i32()

    def partition():
        _, error, when, where = r.i32(), r.i16(), r.i64(), r.i64()
        r.i32(), r.tags()
        return error, when - NOW if when > 0 else when, where

    def topic():
        r.cstring()
        found = r.carray(partition)
        r.tags()
        return found
    return r.carray(topic)[0][0]


def retention():
    rng = random.Random(9)
    make("log-by-size", segment_bytes="1048576", retention_bytes="2500000", file_delete_delay_ms="0")
    make("log-by-time", segment_bytes="1048576", retention_ms="-1", file_delete_delay_ms="0")
    make("log-kept", segment_bytes="1048576", retention_ms="1", cleanup_policy="")
    for name in ["log-by-size", "log-by-time", "log-kept"]:
        for n in range(12):
            # The last third is young.
            first = NOW - (7_200_000 if n < 8 else 60_000) + n
            send(name, "none", [(b"k%d" % n, rng.randbytes(500_000))], first=first)
    say("by size", eventually(lambda: ends("log-by-size"), ((0, -1, 6), (0, -1, 12))))
    # Not before everything is there: a segment whose records are all old goes at once, also the last one.
    alter(TOPIC, "log-by-time", retention_ms="3600000")
    say("by time", eventually(lambda: ends("log-by-time"), ((0, -1, 8), (0, -1, 12))))
    alter(TOPIC, "log-by-size", retention_bytes="100")
    say("less", eventually(lambda: ends("log-by-size"), ((0, -1, 10), (0, -1, 12))))
    alter(TOPIC, "log-by-time", retention_ms="1000")
    say("shorter", eventually(lambda: ends("log-by-time"), ((0, -1, 12), (0, -1, 12))))
    say("no policy", ends("log-kept"))


def offsets():
    for codec in CODECS:
        name = f"log-times-{codec}"
        make(name, index_interval_bytes="100")
        rng = random.Random(3)
        for n in range(10):
            send(name, codec, [(b"k", rng.randbytes(40).hex().encode())] * 5, first=NOW - 100_000 + n * 100 - (500 if n == 6 else 0))
        asked = [-1, -2, -3, -4, -5, -6, 0, NOW - 100_000, NOW - 99_998, NOW - 99_950, NOW - 99_500, NOW - 99_497, NOW - 99_300,
                 NOW - 99_096, NOW - 99_095, NOW]
        say("offsets", codec, [offset(name, at) for at in asked])
    make("log-times-empty")
    say("offsets of nothing", [offset("log-times-empty", at) for at in (-1, -2, -3, -4, -5, 0, NOW)])


every_key()
values()
compression()
limits()
by_broker()
retention()
offsets()
