#!/usr/bin/env python3
"""Transactions that hang: batches in partitions that no coordinator counts as a transaction's.

    hanging.py HOST:PORT NAME begin       write them to NAME-hang, once nothing is verified: of nobody's transaction (partition 0),
                                          of an id without one (1), of one that holds another partition (2, it holds 3); 4 has none
    hanging.py HOST:PORT NAME verified    wait until such a batch is refused
    hanging.py HOST:PORT NAME read        how far readers of committed records get
"""
import re
import sys
import time

from raw_probe import Connection, Reader, array, batch, fetch, fetch_answer, header, i8, i16, i32, i64, produce, produce_answer, string

ADDRESS, NAME, WHAT = sys.argv[1:4]
TOPIC, PATIENCE_S = f"{NAME}-hang", 60
RETRY = {14, 15, 16, 51}  # the coordinator loads, is not there yet, or is busy


def ask(request, read):
    with Connection(ADDRESS) as connection:
        answer = connection.ask(request)
    assert isinstance(answer, Reader), answer
    return read(answer)


def eventually(ask, is_right):
    """The first right answer."""
    end = time.monotonic() + PATIENCE_S
    while not is_right(got := ask()) and time.monotonic() < end:
        time.sleep(0.05)
    return got


def find(id):
    read = lambda r: (r.i32(), r.i16())[1]
    assert eventually(lambda: ask(header(10, 1) + string(id) + i8(1), read), lambda code: code == 0) == 0, id


def producer(id):
    """The id and the epoch that a producer gets."""
    read = lambda r: (r.i32(), r.i16(), r.i64(), r.i16())[1:]
    got = eventually(lambda: ask(header(22, 1) + string(id) + i32(600_000), read), lambda got: got[0] not in RETRY)
    assert got[0] == 0, got
    return got[1:]


def add(id, who, partition):
    body = string(id) + i64(who[0]) + i16(who[1]) + array([string(TOPIC) + array([i32(partition)])])
    read = lambda r: (r.i32(), r.array(lambda: (r.string(), r.array(lambda: (r.i32(), r.i16())))))[1]
    wanted = [(TOPIC, [(partition, 0)])]
    assert eventually(lambda: ask(header(24, 1) + body, read), lambda got: got == wanted) == wanted


def end(id, who):
    read = lambda r: (r.i32(), r.i16())[1]
    code = eventually(lambda: ask(header(26, 1) + string(id) + i64(who[0]) + i16(who[1]) + i8(1), read), lambda code: code not in RETRY)
    print("end", code)


def write(partition, value, id=None, who=None):
    now = int(time.time() * 1000)
    records = batch([value], attributes=0x10, producer=(*who, 0), time_ms=now) if who else batch([value], time_ms=now)
    answer = ask(produce(8, [(TOPIC, [(partition, records)])], acks=-1, transactional=id), produce_answer(8))
    # The sentence beside a code is each broker's own.
    return re.sub(", record errors.*", "", answer[0][0])


def taken(answer):
    return "error 0" in answer


def begin():
    stranger, idle, other = f"{NAME}-stranger", f"{NAME}-idle", f"{NAME}-other"
    for id in (stranger, idle, other):
        find(id)
    each = [(0, stranger, producer(None)), (1, idle, producer(idle)), (2, other, producer(other))]
    add(other, each[2][2], 3)
    for partition, id, who in each:
        # The setting may still be on its way to where the partition is.
        print(eventually(lambda: write(partition, b"hangs", id, who), taken))
    print(write(3, b"held", other, each[2][2]))
    end(other, each[2][2])
    ended = eventually(read_of([3]), lambda answer: "stable 2" in answer)
    assert "stable 2" in ended, ended
    for partition in range(5):
        print(write(partition, b"behind"))


def verified():
    who = producer(None)
    print(eventually(lambda: write(4, b"refused", f"{NAME}-stranger", who), lambda answer: not taken(answer)))


def read_of(partitions):
    request = fetch(4, [(TOPIC, [(partition, 0, -1) for partition in partitions])], isolation=1)
    return lambda: ask(request, fetch_answer(4))


def read():
    # Partition by partition: what comes first of many is the broker's own choice.
    for partition in range(5):
        print(read_of([partition])())


{"begin": begin, "verified": verified, "read": read}[WHAT]()
