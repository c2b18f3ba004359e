#!/usr/bin/env python3
"""Creates, grows, describes and deletes topics in right and wrong ways; prints what came back, one line a probe.

    admin_probe.py HOST:PORT [messages]      with `messages`, error messages are printed, too

Run it against Kafka and against a fresh Coreline and compare the lines: without `messages` they are the same.
Everything printed is independent of ids, times and ports. Left out is where Kafka 4.2 is known to err: a collision of
names within one request is accepted, too many new partitions are made though the answer is an error, and
DescribeTopicPartitions of the empty name is an unknown error.
"""
import sys

from raw_probe import (Connection, array, carray, cstring, header, i8, i16, i32, outcome, string)

NO_ID = bytes(16)
MESSAGES = False


def shown(message):
    return message if MESSAGES else "…"


def ask(address, request, read):
    with Connection(address) as connection:
        return outcome(connection.ask(request), read)


# ---- CreateTopics ----

def new(name, partitions=1, factor=1, assignments=(), configs=()):
    return name, partitions, factor, assignments, configs


def create_topics(version, topics, validate=False):
    flexible = version >= 5
    each, text, end = (carray, cstring, b"\0") if flexible else (array, string, b"")

    def topic(t):
        name, partitions, factor, assignments, configs = t
        body = text(name) + i32(partitions) + i16(factor)
        body += each([i32(p) + each([i32(b) for b in brokers]) + end for p, brokers in assignments])
        return body + each([text(k) + text(v) + end for k, v in configs]) + end
    return header(19, version, flexible) + each([topic(t) for t in topics]) + i32(30000) + i8(int(validate)) + end


def created(version):
    def read(r):
        flexible = version >= 5
        if flexible:
            r.tags()
        r.i32()
        each, text = (r.carray, r.cstring) if flexible else (r.array, r.string)

        def config():
            got = r.cstring(), r.cstring(), r.i8(), r.i8(), r.i8()
            r.tags()
            return got

        def topic():
            name = text()
            id_ = f", id {'zero' if r.take(16) == NO_ID else 'set'}" if version >= 7 else ""
            got = f"{name!r}: error {r.i16()}{id_}, {shown(text())}"
            if flexible:
                got += f", {r.i32()} partitions, factor {r.i16()}"
                configs = r.carray(config)
                own = sorted(c for c in configs or [] if c[3] == 1)
                got += f", configs {configs if configs is None else 'set'}, own {own}, tags {[t for t, _ in r.tags()]}"
            return got
        return sorted(each(topic))
    return read


# ---- DeleteTopics ----

def delete_topics(version, topics):
    """topics: [(name, id)]"""
    if version >= 6:
        body = carray([cstring(n) + i + b"\0" for n, i in topics])
    else:
        body = (carray if version >= 4 else array)([(cstring if version >= 4 else string)(n) for n, _ in topics])
    return header(20, version, version >= 4) + body + i32(30000) + (b"\0" if version >= 4 else b"")


def deleted(version):
    def read(r):
        flexible = version >= 4
        if flexible:
            r.tags()
        r.i32()

        def topic():
            name = r.cstring() if flexible else r.string()
            got = f"{name!r}"
            if version >= 6:
                got += f", id {'zero' if r.take(16) == NO_ID else 'set'}"
            got += f": error {r.i16()}"
            if version >= 5:
                got += f", {shown(r.cstring())}"
            if flexible:
                r.tags()
            return got
        return sorted(r.carray(topic) if flexible else r.array(topic))
    return read


# ---- CreatePartitions ----

def create_partitions(version, topics, validate=False):
    """topics: [(name, count, assignments or None)]"""
    flexible = version >= 2
    each, text, end = (carray, cstring, b"\0") if flexible else (array, string, b"")

    def topic(t):
        name, count, assignments = t
        lists = None if assignments is None else [each([i32(b) for b in a]) + end for a in assignments]
        return text(name) + i32(count) + each(lists) + end
    return header(37, version, flexible) + each([topic(t) for t in topics]) + i32(30000) + i8(int(validate)) + end


def grown(version):
    def read(r):
        flexible = version >= 2
        if flexible:
            r.tags()
        r.i32()
        text = r.cstring if flexible else r.string

        def topic():
            got = f"{text()!r}: error {r.i16()}, {shown(text())}"
            if flexible:
                r.tags()
            return got
        return sorted(r.carray(topic) if flexible else r.array(topic))
    return read


# ---- DescribeCluster, DescribeTopicPartitions, DescribeLogDirs ----

def describe_cluster(version, kind=1):
    body = i8(0) + (i8(kind) if version >= 1 else b"") + (i8(0) if version >= 2 else b"")
    return header(60, version, True) + body + b"\0"


def cluster(version):
    def read(r):
        r.tags(), r.i32()
        got = f"error {r.i16()}, {shown(r.cstring())}"
        if version >= 1:
            got += f", endpoints {r.i8()}"
        got += f", cluster {'set' if r.cstring() else None}, controller {r.i32()}"

        def broker():
            found = r.i32(), r.cstring(), 'port' if r.i32() else None, r.cstring()
            if version >= 2:
                found += (f"fenced {r.i8()}",)
            r.tags()
            return found
        brokers = r.carray(broker)
        return f"{got}, brokers {brokers}, operations {r.i32()}"
    return read


def describe_partitions(topics, limit=2000, cursor=None):
    body = carray([cstring(t) + b"\0" for t in topics]) + i32(limit)
    body += i8(-1) if cursor is None else i8(1) + cstring(cursor[0]) + i32(cursor[1]) + b"\0"
    return header(75, 0, True) + body + b"\0"


def partitions(r):
    r.tags(), r.i32()

    def partition():
        got = [r.i16(), r.i32(), r.i32(), r.i32()] + [r.carray(r.i32) for _ in range(5)]
        r.tags()
        return got

    def topic():
        error, name, id_, internal = r.i16(), r.cstring(), r.take(16), r.i8()
        parts, operations = r.carray(partition), r.i32()
        r.tags()
        first = parts[0] if parts else None
        indexes = [p[1] for p in parts]
        return (f"{name!r}: error {error}, id {'zero' if id_ == NO_ID else 'set'}, internal {internal}, {indexes}, "
                f"first {first}, operations {operations}")
    topics = r.carray(topic)
    cursor = None
    if r.i8() >= 0:
        cursor = r.cstring(), r.i32()
        r.tags()
    return f"{topics}, next {cursor}"


def describe_log_dirs(version, topics):
    """topics: None or [(name, partitions)]"""
    flexible = version >= 2
    each, text, end = (carray, cstring, b"\0") if flexible else (array, string, b"")
    body = each(None if topics is None else [text(n) + each([i32(p) for p in ps]) + end for n, ps in topics])
    return header(35, version, flexible) + body + end


def log_dirs(version):
    def read(r):
        flexible = version >= 2
        if flexible:
            r.tags()
        r.i32()
        error = f"error {r.i16()}, " if version >= 3 else ""
        each, text = (r.carray, r.cstring) if flexible else (r.array, r.string)

        def partition():
            got = r.i32(), r.i64(), r.i64(), r.i8()
            if flexible:
                r.tags()
            return got

        def topic():
            got = text(), sorted(each(partition))
            if flexible:
                r.tags()
            return got

        def directory():
            got = f"error {r.i16()}, path {'set' if text() else None}, {sorted(each(topic))}"
            if version >= 4:
                got += f", total {'set' if r.i64() > 0 else -1}, usable {'set' if r.i64() > 0 else -1}"
            if flexible:
                r.tags()
            return got
        return error + str(each(directory))
    return read


# ---- the probes ----

CREATIONS = [
    ("one", 7, [new("one")]),
    ("again", 7, [new("one")]),
    ("version 2", 2, [new("v2", 2)]),
    ("version 4 defaults", 4, [new("v4", -1, -1)]),
    ("version 5", 5, [new("v5")]),
    ("two and a bad one", 7, [new("two", 2), new("a b"), new("three", 3)]),
    ("twice in a request", 7, [new("twice"), new("twice"), new("once")]),
    ("no topics", 7, []),
    ("empty name", 7, [new("")]),
    ("dot", 7, [new(".")]),
    ("dots", 7, [new("..")]),
    ("long name", 7, [new("n" * 250)]),
    ("longest name", 7, [new("n" * 249)]),
    ("characters", 7, [new("a/b"), new("a:b"), new("ü")]),
    ("a dot", 7, [new("x.y")]),
    ("collision", 7, [new("x_y")]),
    ("collision in a request", 7, [new("p.q")]),
    ("no partitions", 7, [new("t", 0)]),
    ("negative partitions", 7, [new("t", -2)]),
    ("no factor", 7, [new("t", 1, 0)]),
    ("negative factor", 7, [new("t", 1, -2)]),
    ("factor 2", 7, [new("t", 1, 2)]),
    ("too many partitions", 7, [new("t", 10001)]),
    ("too many partitions in two", 7, [new("t", 6000), new("u", 6000)]),
    ("assignment", 7, [new("assigned", -1, -1, [(0, [1]), (1, [1])])]),
    ("assignment out of order", 7, [new("disorder", -1, -1, [(1, [1]), (0, [1])])]),
    ("assignment and partitions", 7, [new("t", 2, -1, [(0, [1]), (1, [1])])]),
    ("assignment and factor", 7, [new("t", -1, 1, [(0, [1])])]),
    ("assignment with a gap", 7, [new("t", -1, -1, [(0, [1]), (2, [1])])]),
    ("assignment from 1", 7, [new("t", -1, -1, [(1, [1])])]),
    ("assignment twice", 7, [new("t", -1, -1, [(0, [1]), (0, [1])])]),
    ("assignment to nobody", 7, [new("t", -1, -1, [(0, [])])]),
    ("assignment to a stranger", 7, [new("t", -1, -1, [(0, [9])])]),
    ("assignment to one broker twice", 7, [new("t", -1, -1, [(0, [1, 1])])]),
    ("assignment of two sizes", 7, [new("t", -1, -1, [(0, [1]), (1, [1, 9])])]),
    ("config", 7, [new("configured", configs=[("segment.bytes", "2097152"), ("min.insync.replicas", "1")])]),
    ("unknown config", 7, [new("t", configs=[("segment.byte", "1")])]),
    ("invalid config", 7, [new("t", configs=[("segment.bytes", "x")])]),
    ("config out of range", 7, [new("t", configs=[("segment.bytes", "-1")])]),
    ("null config", 7, [new("t", configs=[("segment.bytes", None)])]),
    ("config twice", 7, [new("config2", configs=[("segment.bytes", "2097152"), ("segment.bytes", "3145728")])]),
]


def probes(address):
    def show(name, request, read):
        print(f"{name}: {ask(address, request, read)}")

    for name, version, topics in CREATIONS:
        show(f"create {name}", create_topics(version, topics), created(version))
    show("create only checked", create_topics(7, [new("checked", 2), new("one")], True), created(7))

    for name, version, topics in [
        ("to 3", 3, [("one", 3, None)]),
        ("same", 3, [("one", 3, None)]),
        ("fewer", 3, [("one", 1, None)]),
        ("negative", 3, [("one", -1, None)]),
        ("none", 3, [("one", 0, None)]),
        ("unknown", 3, [("nowhere", 3, None)]),
        ("empty name", 3, [("", 3, None)]),
        ("twice", 3, [("one", 4, None), ("one", 5, None), ("two", 3, None)]),
        ("assigned", 3, [("two", 5, [[1], [1]])]),
        ("assigned too few", 3, [("two", 8, [[1]])]),
        ("assigned too many", 3, [("two", 6, [[1], [1]])]),
        ("assigned to a stranger", 3, [("two", 6, [[9]])]),
        ("assigned to two", 3, [("two", 6, [[1, 9]])]),
        ("assigned to nobody", 3, [("two", 6, [[]])]),
        ("version 0", 0, [("two", 6, None)]),
        ("version 1", 1, [("two", 6, None)]),
        ("version 2", 2, [("two", 7, None)]),
    ]:
        show(f"grow {name}", create_partitions(version, topics), grown(version))
    show("grow only checked", create_partitions(3, [("two", 9, None)], True), grown(3))

    for version in (0, 1, 2):
        show(f"cluster version {version}", describe_cluster(version), cluster(version))
    show("cluster controllers", describe_cluster(1, 2), cluster(1))
    show("cluster kind 7", describe_cluster(1, 7), cluster(1))

    for name, topics, limit, cursor in [
        ("one", ["one"], 2000, None),
        ("unknown", ["nowhere", "one"], 2000, None),
        ("invalid name", ["a b"], 2000, None),
        ("twice", ["one", "one"], 2000, None),
        ("page", ["one", "two"], 2, None),
        ("page border", ["one", "two"], 3, None),
        ("from a cursor", ["one", "two"], 3, ("one", 2)),
        ("cursor between", ["one", "two"], 3, ("p", 2)),
        ("cursor past the end", ["one"], 3, ("one", 9)),
        ("cursor past all", ["one"], 3, ("z", 0)),
        ("cursor at a topic not asked", ["two"], 3, ("one", 1)),
        ("cursor at an unknown topic", ["nowhere", "two"], 3, ("nowhere", 1)),
        ("negative cursor", ["one"], 3, ("one", -1)),
        ("limit 0", ["one"], 0, None),
        ("negative limit", ["one"], -5, None),
        ("all, limit 1", [], 1, None),
    ]:
        show(f"partitions {name}", describe_partitions(topics, limit, cursor), partitions)

    for name, version, topics in [
        ("one", 4, [("one", [0, 2])]),
        ("version 1", 1, [("one", [0])]),
        ("version 2", 2, [("one", [0])]),
        ("version 3", 3, [("one", [0])]),
        ("unknown", 4, [("nowhere", [0]), ("one", [77])]),
        ("nothing", 4, []),
    ]:
        show(f"log dirs {name}", describe_log_dirs(version, topics), log_dirs(version))

    for name, version, topics in [
        ("unknown", 6, [("nowhere", NO_ID)]),
        ("unknown id", 6, [(None, bytes(15) + b"\7")]),
        ("zero id", 6, [(None, NO_ID)]),
        ("name and id", 6, [("one", bytes(15) + b"\7")]),
        ("twice", 6, [("v2", NO_ID), ("v2", NO_ID), ("v4", NO_ID)]),
        ("unknown twice", 6, [("nowhere", NO_ID), ("nowhere", NO_ID)]),
        ("empty name", 6, [("", NO_ID)]),
        ("invalid name", 6, [("a b", NO_ID)]),
        ("none", 6, []),
        ("version 1", 1, [("v5", NO_ID)]),
        ("version 4", 4, [("two", NO_ID), ("nowhere", NO_ID)]),
        ("version 5", 5, [("two", NO_ID), ("three", NO_ID)]),
    ]:
        show(f"delete {name}", delete_topics(version, topics), deleted(version))


if __name__ == "__main__":
    MESSAGES = "messages" in sys.argv[2:]
    probes(sys.argv[1])
