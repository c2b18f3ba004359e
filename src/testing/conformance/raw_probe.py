#!/usr/bin/env python3
"""Odd and wrong bytes for a Kafka-protocol broker; prints what can be seen from outside, one line a probe.

    raw_probe.py HOST:PORT [NAME…]      all probes, or those whose name begins with NAME

Run it against Kafka and against Coreline and compare the lines. Needs nothing but Python; creates a topic of its own,
and everything printed is independent of ids, times and ports.
"""
import os
import socket
import struct
import sys
import time

TIMEOUT_S = 10
CLOSED = "connection closed"


# ---- writing ----

def i8(n): return struct.pack(">b", n)
def i16(n): return struct.pack(">h", n)
def i32(n): return struct.pack(">i", n)
def i64(n): return struct.pack(">q", n)


def uvarint(n):
    out = b""
    while n >= 0x80:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def varint(n): return uvarint((n << 1) ^ (n >> 63))
def string(s): return i16(-1) if s is None else i16(len(s.encode())) + s.encode()
def cstring(s): return uvarint(0) if s is None else uvarint(len(s.encode()) + 1) + s.encode()
def data(b): return i32(-1) if b is None else i32(len(b)) + b
def cdata(b): return uvarint(0) if b is None else uvarint(len(b) + 1) + b
def array(items): return i32(-1) if items is None else i32(len(items)) + b"".join(items)
def carray(items): return uvarint(0) if items is None else uvarint(len(items) + 1) + b"".join(items)


def header(key, version, flexible=False, correlation=7, client="probe"):
    return i16(key) + i16(version) + i32(correlation) + string(client) + (b"\0" if flexible else b"")


def crc32c(bytes_):
    crc = 0xFFFFFFFF
    for byte in bytes_:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def batch(values=(b"v",), magic=2, attributes=0, producer=(-1, -1, -1), count=None, last_delta=None, bad_crc=False, time_ms=1000):
    records = b""
    for i, value in enumerate(values):
        body = b"\0" + varint(0) + varint(i) + varint(-1) + varint(len(value)) + value + varint(0)
        records += varint(len(body)) + body
    n = len(values)
    rest = i16(attributes) + i32(n - 1 if last_delta is None else last_delta) + i64(time_ms) + i64(time_ms)
    rest += i64(producer[0]) + i16(producer[1]) + i32(producer[2]) + i32(n if count is None else count) + records
    crc = crc32c(rest) ^ (1 if bad_crc else 0)
    return i64(0) + i32(len(rest) + 9) + i32(-1) + i8(magic) + struct.pack(">I", crc) + rest


# ---- reading ----

class Reader:
    def __init__(self, b): self.b, self.at = b, 0

    def take(self, n):
        assert self.at + n <= len(self.b), f"response ends at {len(self.b)}, {n} more wanted at {self.at}"
        self.at += n
        return self.b[self.at - n:self.at]

    def num(self, fmt): return struct.unpack(fmt, self.take(struct.calcsize(fmt)))[0]
    def i8(self): return self.num(">b")
    def i16(self): return self.num(">h")
    def i32(self): return self.num(">i")
    def i64(self): return self.num(">q")

    def uvarint(self):
        n = shift = 0
        while True:
            byte = self.take(1)[0]
            n |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return n

    def string(self):
        n = self.i16()
        return None if n < 0 else self.take(n).decode()

    def cstring(self):
        n = self.uvarint()
        return None if n == 0 else self.take(n - 1).decode()

    def data(self):
        n = self.i32()
        return None if n < 0 else self.take(n)

    def array(self, item):
        n = self.i32()
        return None if n < 0 else [item() for _ in range(n)]

    def carray(self, item):
        n = self.uvarint()
        return None if n == 0 else [item() for _ in range(n - 1)]

    def tags(self):
        found = []
        for _ in range(self.uvarint()):
            tag = self.uvarint()
            found.append((tag, self.take(self.uvarint())))
        return found


class Connection:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), TIMEOUT_S)
        self.socket.settimeout(TIMEOUT_S)

    def __enter__(self): return self
    def __exit__(self, *_): self.socket.close()

    def raw(self, b):
        try:
            self.socket.sendall(b)
        except OSError:
            pass

    def send(self, b): self.raw(i32(len(b)) + b)

    def receive(self):
        """A frame after the correlation id, or None if the broker closed."""
        got = b""
        try:
            while len(got) < 4 or len(got) < 4 + struct.unpack(">i", got[:4])[0]:
                more = self.socket.recv(1 << 16)
                if not more:
                    return None
                got += more
        except ConnectionError:
            return None
        except TimeoutError:
            return "no answer"
        return Reader(got[8:])

    def ask(self, b):
        self.send(b)
        return self.receive()


def outcome(answer, read):
    if answer is None:
        return CLOSED
    return answer if isinstance(answer, str) else read(answer)


# ---- bodies ----

def metadata1(names): return header(3, 1) + array(None if names is None else [string(n) for n in names])


def metadata1_answer(r):
    brokers = r.array(lambda: (r.i32(), r.string(), r.i32(), r.string()))
    r.i32()

    def topic():
        error, name, _ = r.i16(), r.string(), r.i8()
        parts = r.array(lambda: (r.i16(), r.i32(), r.i32(), r.array(r.i32), r.array(r.i32)))
        return f"{name!r}: error {error}, {len(parts)} partitions"
    return f"{len(brokers)} broker, {r.array(topic)}"


def metadata12(topics):
    """topics: [(id, name)]"""
    body = carray(None if topics is None else [i + cstring(n) + b"\0" for i, n in topics])
    return header(3, 12, True) + body + b"\0" + b"\0" + b"\0"


def metadata12_topics(r):
    r.tags(), r.i32()
    r.carray(lambda: (r.i32(), r.cstring(), r.i32(), r.cstring(), r.tags()))
    r.cstring(), r.i32()

    def partition():
        got = r.i16(), r.i32(), r.i32(), r.i32(), r.carray(r.i32), r.carray(r.i32), r.carray(r.i32)
        r.tags()
        return got

    def topic():
        error, name, id_, internal = r.i16(), r.cstring(), r.take(16), r.i8()
        partitions, operations = r.carray(partition), r.i32()
        r.tags()
        return error, name, id_, internal, partitions, operations
    return r.carray(topic)


def metadata12_answer(r):
    return [f"{name!r}: error {error}, id {'zero' if id_ == bytes(16) else 'set'}, {len(parts)} partitions, operations {ops}"
            for error, name, id_, _, parts, ops in metadata12_topics(r)]


def produce(version, topics, acks=1, transactional=None):
    """topics: [(name or id, [(partition, records)])]"""
    if version >= 9:
        name = (lambda n: n) if version >= 13 else cstring
        body = [name(n) + carray([i32(p) + cdata(rs) + b"\0" for p, rs in parts]) + b"\0" for n, parts in topics]
        return header(0, version, True) + cstring(transactional) + i16(acks) + i32(5000) + carray(body) + b"\0"
    body = [string(n) + array([i32(p) + data(rs) for p, rs in parts]) for n, parts in topics]
    return header(0, version) + string(transactional) + i16(acks) + i32(5000) + array(body)


def produce_answer(version):
    def read(r):
        flexible = version >= 9
        if flexible:
            r.tags()
        each, text = (r.carray, r.cstring) if flexible else (r.array, r.string)

        def partition():
            got = f"partition {r.i32()}: error {r.i16()}, offset {r.i64()}, time {'set' if r.i64() >= 0 else -1}"
            if version >= 5:
                got += f", start {r.i64()}"
            if version >= 8:
                def wrong():
                    found = r.i32(), text()
                    if flexible:
                        r.tags()
                    return found[0]
                got += f", record errors {each(wrong)}, message {'set' if text() else None}"
            if flexible:
                got += f", tags {[t for t, _ in r.tags()]}"
            return got

        def topic():
            if version >= 13:
                r.take(16)
            else:
                text()
            found = each(partition)
            if flexible:
                r.tags()
            return found
        return each(topic)
    return read


def fetch(version, topics, wait=0, session=(0, -1), forgotten=(), isolation=0, max_bytes=1 << 20, min_bytes=1):
    """topics: [(name or id, [(partition, offset, epoch)])]"""
    flexible = version >= 12
    head = header(1, version, flexible) + i32(-1) + i32(wait) + i32(min_bytes) + i32(max_bytes) + i8(isolation)
    if version >= 7:
        head += i32(session[0]) + i32(session[1])
    name = (lambda n: n) if version >= 13 else cstring if flexible else string
    each = carray if flexible else array

    def partition(p, offset, epoch):
        out = i32(p) + (i32(epoch) if version >= 9 else b"") + i64(offset) + (i32(-1) if flexible else b"")
        return out + (i64(-1) if version >= 5 else b"") + i32(1 << 20) + (b"\0" if flexible else b"")
    end = b"\0" if flexible else b""
    head += each([name(n) + each([partition(*p) for p in parts]) + end for n, parts in topics])
    if version >= 7:
        head += each([name(n) + each([i32(p) for p in parts]) + end for n, parts in forgotten])
    if version >= 11:
        head += cstring("") if flexible else string("")
    return head + end


def fetch_session(version, r):
    """(error, session id, reader of the topics)"""
    if version >= 12:
        r.tags()
    r.i32()
    return (r.i16(), r.i32()) if version >= 7 else (0, 0)


def fetch_topics(version, r):
    flexible = version >= 12
    each, text = (r.carray, r.cstring) if flexible else (r.array, r.string)

    def aborted():
        found = r.i64(), r.i64()
        if flexible:
            r.tags()
        return found

    def partition():
        got = f"partition {r.i32()}: error {r.i16()}, high watermark {r.i64()}, stable {r.i64()}"
        if version >= 5:
            got += f", start {r.i64()}"
        got += f", aborted {each(aborted)}"
        if version >= 11:
            got += f", preferred {r.i32()}"
        n = r.uvarint() - 1 if flexible else r.i32()
        if n > 0:
            r.take(n)
        got += f", records {'some' if n > 0 else n}"
        if flexible:
            got += f", tags {[t for t, _ in r.tags()]}"
        return got

    def topic():
        if version >= 13:
            r.take(16)
        else:
            text()
        found = each(partition)
        if flexible:
            r.tags()
        return found
    return each(topic)


def fetch_answer(version):
    def read(r):
        error, session = fetch_session(version, r)
        return f"error {error}, session {'set' if session else 0}, {fetch_topics(version, r)}"
    return read


def list_offsets(version, name, partition, timestamp, epoch=-1):
    part = i32(partition) + (i32(epoch) if version >= 4 else b"") + i64(timestamp)
    if version >= 6:
        body = carray([cstring(name) + carray([part + b"\0"]) + b"\0"])
        return header(2, version, True) + i32(-1) + i8(0) + body + (i32(1000) if version >= 10 else b"") + b"\0"
    return header(2, version) + i32(-1) + (i8(0) if version >= 2 else b"") + array([string(name) + array([part])])


def list_offsets_answer(version):
    def read(r):
        if version >= 6:
            r.tags()
        if version >= 2:
            r.i32()
        each, text = (r.carray, r.cstring) if version >= 6 else (r.array, r.string)

        def partition():
            got = f"partition {r.i32()}: error {r.i16()}, time {r.i64()}, offset {r.i64()}"
            if version >= 4:
                got += f", epoch {r.i32()}"
            if version >= 6:
                r.tags()
            return got

        def topic():
            text()
            found = each(partition)
            if version >= 6:
                r.tags()
            return found
        return each(topic)
    return read


# ---- probes ----

PROBES = []


def probe(f):
    PROBES.append(f)
    return f


class World:
    def __init__(self, address):
        self.address = address
        self.topic = f"raw-probe-{os.getpid()}"
        with self.connect() as c:
            # Its records are of 1970: they must not grow too old while they are looked at.
            kept = array([string("retention.ms") + string("-1")])
            c.ask(header(19, 2) + array([string(self.topic) + i32(1) + i16(1) + array([]) + kept]) + i32(30000) + i8(0))
            for _ in range(50):
                # Wait for its leader.
                _, _, id_, _, partitions, _ = metadata12_topics(c.ask(
                    header(3, 12, True) + carray([bytes(16) + cstring(self.topic) + b"\0"]) + b"\1\0\0"))[0]
                if partitions and partitions[0][0] == 0:
                    break
            self.id = id_
            written = 0
            while written < 3:
                # The first may come before the leader has taken over.
                answer = outcome(c.ask(produce(9, [(self.topic, [(0, batch([b"%d" % written]))])])), produce_answer(9))
                assert any(f"error {code}," in str(answer) for code in (0, 3, 6)), answer
                written += "error 0" in str(answer)

    def connect(self): return Connection(self.address)

    def once(self, body, read):
        with self.connect() as c:
            return outcome(c.ask(body), read)

    def raw(self, b):
        with self.connect() as c:
            c.raw(b)
            return outcome(c.receive(), lambda r: f"{len(r.b)} bytes")


def versions(r):
    error = r.i16()
    listed = r.array(lambda: (r.i16(), r.i16(), r.i16()))
    return error, listed


@probe
def api_versions_of_the_data_path(w):
    wanted = {0, 1, 2, 3, 10, 18, 19, 20, 22, 23, 32, 33, 35, 37, 44, 60, 61, 74, 75}
    error, listed = w.once(header(18, 0), versions)
    return f"error {error}, {sorted(v for v in listed if v[0] in wanted)}"


@probe
def api_versions_unknown_version(w):
    def read(r):
        error, listed = versions(r)
        return f"error {error}, ApiVersions {[v for v in listed if v[0] == 18]}, {len(listed) > 1 and 'others listed' or 'only this'}"
    return w.once(header(18, 99, True) + b"garbage", read)


@probe
def api_versions_v4(w):
    def read(r):
        error = r.i16()
        r.carray(lambda: (r.i16(), r.i16(), r.i16(), r.tags()))
        r.i32()
        return f"error {error}, tags {sorted(t for t, _ in r.tags())}"
    return w.once(header(18, 4, True) + cstring("probe") + cstring("1.0") + b"\0", read)


@probe
def api_versions_bad_client_name(w):
    return w.once(header(18, 3, True) + cstring("sp ace!") + cstring("") + b"\0", lambda r: f"error {r.i16()}")


@probe
def unknown_api_key(w): return w.once(header(999, 0), lambda r: "answer")


@probe
def negative_api_key(w): return w.once(header(-5, 0), lambda r: "answer")


@probe
def unsupported_metadata_version(w): return w.once(header(3, 99), lambda r: "answer")


@probe
def produce_version_2(w): return w.once(header(0, 2) + i16(1) + i32(1000) + array([]), lambda r: "answer")


@probe
def frame_negative(w): return w.raw(i32(-1) + b"x" * 10)


@probe
def frame_zero(w): return w.raw(i32(0) + i32(4))


@probe
def frame_too_short_for_a_header(w): return w.raw(i32(5) + b"\0\3\0\1\0")


@probe
def frame_oversized(w): return w.raw(i32(0x7FFFFFFF) + b"x" * 10)


@probe
def body_truncated(w): return w.once(metadata1(["abc"])[:-2], lambda r: "answer")


@probe
def body_with_bytes_after_it(w): return w.once(metadata1([]) + b"more", metadata1_answer)


@probe
def array_absurd(w): return w.once(header(3, 1) + i32(0x7FFFFFFF), lambda r: "answer")


@probe
def array_absurd_compact(w): return w.once(header(3, 12, True) + b"\xff\xff\xff\xff\x07\0\0\0", lambda r: "answer")


@probe
def array_negative(w): return w.once(header(3, 1) + i32(-2), lambda r: "answer")


@probe
def string_not_utf8(w): return w.once(header(3, 4) + i32(1) + i16(2) + b"\xff\xfe" + i8(0), lambda r: "answer")


@probe
def two_requests_in_one_write(w):
    with w.connect() as c:
        one, two = header(18, 0, correlation=1), header(18, 0, correlation=2)
        c.raw(i32(len(one)) + one + i32(len(two)) + two)
        got = b""
        while True:
            got += c.socket.recv(1 << 16)
            first = 4 + struct.unpack(">i", got[:4])[0]
            if len(got) >= first + 8:
                return f"correlation ids {struct.unpack('>i', got[4:8])[0]}, {struct.unpack('>i', got[first + 4:first + 8])[0]}"


@probe
def metadata_invalid_names(w): return w.once(metadata1(["", "a b", ".", "x" * 250]), metadata1_answer)


@probe
def metadata_unknown_name_without_creation(w):
    return w.once(header(3, 4) + array([string("no-such-topic")]) + i8(0), lambda r: (r.i32(), r.array(lambda: (r.i32(), r.string(), r.i32(), r.string())), r.string(), r.i32())[:1] and r.array(lambda: (r.i16(), r.string(), r.i8(), r.array(lambda: None))))


@probe
def metadata_unknown_id(w): return w.once(metadata12([(b"\x11" * 16, None)]), metadata12_answer)


@probe
def metadata_zero_id_and_null_name(w): return w.once(metadata12([(bytes(16), None)]), metadata12_answer)


@probe
def metadata_null_name_v9(w): return w.once(header(3, 9, True) + carray([cstring(None) + b"\0"]) + b"\0\0\0\0", lambda r: "answer")


@probe
def metadata_by_id(w): return str(w.once(metadata12([(w.id, None)]), metadata12_answer)).replace(w.topic, "TOPIC")


@probe
def metadata_twice_the_same(w): return str(w.once(metadata1([w.topic, w.topic]), metadata1_answer)).replace(w.topic, "TOPIC")


@probe
def metadata_authorized_operations(w):
    return str(w.once(header(3, 12, True) + carray([bytes(16) + cstring(w.topic) + b"\0"]) + b"\0\1\0", metadata12_answer)).replace(w.topic, "TOPIC")


def produced(name, version, records, **more):
    def run(w):
        topic = more.get("topic", w.id if version >= 13 else w.topic)
        acks, transactional = more.get("acks", 1), more.get("transactional")
        return w.once(produce(version, [(topic, [(more.get("index", 0), records)])], acks, transactional), produce_answer(version))
    run.__name__ = "produce_" + name
    PROBES.append(run)


produced("acks_7", 9, batch(), acks=7)
produced("null_records", 9, None)
produced("empty_records", 9, b"")
produced("null_records_v3", 3, None)
produced("bad_crc", 9, batch(bad_crc=True))
produced("magic_1", 9, batch(magic=1))
produced("magic_3", 9, batch(magic=3))
produced("cut_batch", 9, batch()[:-3])
produced("cut_header", 9, batch()[:30])
produced("two_batches", 9, batch() + batch())
produced("count_too_large", 9, batch(count=2))
produced("last_delta_too_large", 9, batch(last_delta=5))
produced("no_records", 9, batch(values=[], last_delta=0))
produced("control_batch", 9, batch(attributes=0x20))
produced("transactional_batch_without_id", 9, batch(attributes=0x10, producer=(1, 0, 0)))
produced("too_large", 9, batch([b"x" * 1_100_000]))
produced("unknown_topic", 9, batch(), topic="no-such-topic")
produced("invalid_topic", 9, batch(), topic="a b")
produced("unknown_partition", 9, batch(), index=99)
produced("negative_partition", 9, batch(), index=-1)
produced("unknown_topic_id", 13, batch(), topic=b"\x11" * 16)
produced("zero_topic_id", 13, batch(), topic=bytes(16))
produced("unknown_partition_of_id", 13, batch(), index=99)
produced("sequence_gap_at_start", 9, batch(producer=(4242, 0, 7)))
produced("idempotent_id_nobody_gave", 9, batch(producer=(4243, 0, 0)))


@probe
def produce_acks_0_to_unknown_partition(w): return w.once(produce(9, [(w.topic, [(99, batch())])], acks=0), lambda r: "answer")


@probe
def produce_acks_0_bad_crc(w): return w.once(produce(9, [(w.topic, [(0, batch(bad_crc=True))])], acks=0), lambda r: "answer")


@probe
def produce_same_partition_twice(w):
    return w.once(produce(9, [(w.topic, [(99, batch()), (99, batch())])]), produce_answer(9))


@probe
def fetch_out_of_range(w): return w.once(fetch(11, [(w.topic, [(0, 99999, -1)])]), fetch_answer(11))


@probe
def fetch_negative_offset(w): return w.once(fetch(11, [(w.topic, [(0, -1, -1)])]), fetch_answer(11))


@probe
def fetch_unknown_topic(w): return w.once(fetch(12, [("no-such-topic", [(0, 0, -1)])]), fetch_answer(12))


@probe
def fetch_unknown_topic_id(w): return w.once(fetch(13, [(b"\x11" * 16, [(0, 0, -1)])]), fetch_answer(13))


@probe
def fetch_unknown_partition(w): return w.once(fetch(12, [(w.topic, [(99, 0, -1)])]), fetch_answer(12))


@probe
def fetch_epoch_from_the_future(w): return w.once(fetch(12, [(w.topic, [(0, 0, 50)])]), fetch_answer(12))


@probe
def fetch_at_start_v4(w): return w.once(fetch(4, [(w.topic, [(0, 0, -1)])]), lambda r: fetch_topics(4, (r.i32(), r)[1])[0][0].split(", high")[0])


@probe
def fetch_read_committed(w): return w.once(fetch(12, [(w.topic, [(0, 1, -1)])], isolation=1), fetch_answer(12)).split("high")[0]


@probe
def fetch_one_byte_still_gives_a_batch(w):
    return w.once(fetch(12, [(w.topic, [(0, 0, -1)])], max_bytes=1), fetch_answer(12)).split("records")[1]


@probe
def fetch_session_unknown(w): return w.once(fetch(12, [], session=(123456, 3)), fetch_answer(12))


@probe
def fetch_session_life(w):
    found = []
    with w.connect() as c:
        def ask(session, topics, forgotten=()):
            r = c.ask(fetch(12, topics, session=session, forgotten=forgotten))
            error, id_ = fetch_session(12, r)
            told = [p.split(", high")[0] for t in fetch_topics(12, r) for p in t]
            found.append(f"error {error}, session {'set' if id_ else 0}, told {told}")
            return id_
        s = ask((0, 0), [(w.topic, [(0, 99999, -1), (99, 0, -1)])])
        ask((s, 1), [])
        ask((s, 1), [])
        ask((s, 2), [(w.topic, [(0, 0, -1)])], [(w.topic, [99])])
        ask((s, 3), [], [(w.topic, [0])])
        ask((s, 4), [])
        s = ask((0, 0), [(w.topic, [(0, 0, -1)])])
        ask((s, -1), [(w.topic, [(0, 0, -1)])])
        ask((s, 1), [])
    return "; ".join(found)


def listed(name, version, timestamp, **more):
    def run(w):
        topic, index = more.get("topic", w.topic), more.get("index", 0)
        return w.once(list_offsets(version, topic, index, timestamp, more.get("epoch", -1)), list_offsets_answer(version))
    run.__name__ = "list_offsets_" + name
    PROBES.append(run)


listed("earliest", 6, -2)
listed("earliest_v1", 1, -2)
listed("max_timestamp", 7, -3)
listed("max_timestamp_before_its_version", 6, -3)
listed("earliest_local", 8, -4)
listed("tiered", 9, -5)
listed("tiered_v11_needed", 10, -6)
listed("unknown_special", 10, -77)
listed("by_time", 10, 1000)
listed("after_all", 10, 1 << 60)
listed("unknown_topic", 6, -1, topic="no-such-topic")
listed("unknown_partition", 6, -1, index=99)
listed("epoch_from_the_future", 6, -1, epoch=50)


def epoch_end(name, topic, partition, current, epoch):
    def run(w):
        def read(r):
            r.i32()
            return r.array(lambda: (r.string() and "T", r.array(
                lambda: f"error {r.i16()}, partition {r.i32()}, epoch {r.i32()}, {'end set' if r.i64() >= 0 else 'end -1'}")))
        return w.once(header(23, 3) + i32(-1) + array([string(topic or w.topic) + array([i32(partition) + i32(current) + i32(epoch)])]), read)
    run.__name__ = "epoch_end_" + name
    PROBES.append(run)


epoch_end("known", None, 0, -1, 0)
epoch_end("future", None, 0, -1, 7)
epoch_end("current_from_the_future", None, 0, 9, 0)
epoch_end("unknown_partition", None, 99, -1, 0)
epoch_end("unknown_topic", "no-such-topic", 0, -1, 0)


def init_producer(name, version, transactional, timeout=60000, producer=(-1, -1)):
    def run(w):
        def read(r):
            r.tags(), r.i32()
            return f"error {r.i16()}, id {'set' if r.i64() >= 0 else -1}, epoch {r.i16()}"
        body = cstring(transactional) + i32(timeout) + (i64(producer[0]) + i16(producer[1]) if version >= 3 else b"") + b"\0"
        for _ in range(50):
            # Kafka has no block of ids yet in its first moments (COORDINATOR_LOAD_IN_PROGRESS).
            answer = w.once(header(22, version, True) + body, read)
            if not answer.startswith("error 14,"):
                break
            time.sleep(0.1)
        return answer
    run.__name__ = "init_producer_id_" + name
    PROBES.append(run)


init_producer("idempotent", 4, None)
init_producer("epoch_without_id", 4, None, producer=(-1, 3))
init_producer("with_id", 4, None, producer=(55, 3))
init_producer("empty_transactional_id", 4, "")


def coordinator(name, key, key_type):
    def run(w):
        def read(r):
            r.tags(), r.i32()
            return r.carray(lambda: (r.cstring(), f"node {r.i32()}", r.cstring() and "", r.i32() and "", f"error {r.i16()}", r.cstring() and "", r.tags())[4])
        return w.once(header(10, 4, True) + i8(key_type) + carray([cstring(key)]) + b"\0", read)
    run.__name__ = "find_coordinator_" + name
    PROBES.append(run)


coordinator("unknown_type", "g", 9)
coordinator("negative_type", "g", -1)


@probe
def describe_producers(w):
    def read(r):
        r.tags(), r.i32()
        def producer():
            got = r.i64(), r.i32(), r.i32(), r.i64(), r.i32(), r.i64()
            r.tags()
            return f"producer {got[0]} epoch {got[1]} sequence {got[2]} coordinator {got[4]} start {got[5]}"
        def partition():
            got = r.i32(), r.i16(), r.cstring(), sorted(r.carray(producer))
            r.tags()
            return f"partition {got[0]}: error {got[1]}, message {'set' if got[2] else None}, {got[3]}"
        return r.carray(lambda: (r.cstring() and "T", r.carray(partition), r.tags()))
    with w.connect() as c:
        c.ask(produce(9, [(w.topic, [(0, batch(producer=(9000, 2, 0)))])]))
    answer = w.once(header(61, 0, True) + carray([cstring(w.topic) + carray([i32(0), i32(99)]) + b"\0", cstring("no-such-topic") + carray([i32(0)]) + b"\0"]) + b"\0", read)
    return answer


def main():
    address, names = sys.argv[1], sys.argv[2:]
    world = World(address)
    for f in PROBES:
        if names and not any(f.__name__.startswith(n) for n in names):
            continue
        try:
            result = f(world)
        except Exception as e:  # a probe that cannot read the answer is an outcome, too
            result = f"{type(e).__name__}: {e}"
        print(f"{f.__name__}: {result}".replace(world.topic, "TOPIC"), flush=True)


if __name__ == "__main__":
    main()
