"""Kills a broker with SIGKILL under load, again and again, and checks that nothing acknowledged is lost or doubled.

    kill.py ROUNDS DATA_DIR PORT COMMAND…

COMMAND starts the broker and prints one line when it serves. An idempotent producer (librdkafka) writes numbered records to
several partitions all the while and never gives up; a second one without idempotence may double but not lose. At the end each
partition must hold exactly 0, 1, 2, … in order (idempotent), and every acknowledged number (the other one).
"""
import json
import os
import random
import signal
import subprocess
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

ROUNDS, DATA, PORT, COMMAND = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
BOOTSTRAP = f"127.0.0.1:{PORT}"
PARTITIONS = 6
SEED = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
chance = random.Random(SEED)


def start():
    began = time.monotonic()
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=open(f"{DATA}.stderr", "a"))
    line = process.stdout.readline()
    if not line:
        sys.exit(f"the broker did not start: exit code {process.wait()}; see {DATA}.stderr")
    return process, time.monotonic() - began


class Writer:
    """Numbers for each partition of a topic; remembers what was acknowledged, and in which order it was sent."""

    def __init__(self, topic, **config):
        self.topic = topic
        self.next = [0] * PARTITIONS
        self.acked = [set() for _ in range(PARTITIONS)]
        self.failed = []
        self.producer = Producer({
            "bootstrap.servers": BOOTSTRAP, "linger.ms": 2, "acks": "all", "message.timeout.ms": 600_000, "delivery.timeout.ms": 600_000,
            "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "retry.backoff.ms": 20, "batch.num.messages": 200,
            "queue.buffering.max.messages": 5000, **config})

    def delivered(self, partition, number):
        def report(error, _message):
            if error is None:
                self.acked[partition].add(number)
            else:
                self.failed.append((partition, number, error.name()))
        return report

    def write(self, count):
        for _ in range(count):
            p = chance.randrange(PARTITIONS)
            size = chance.choice([10, 10, 100, 1000, 20_000])
            value = str(self.next[p]).encode() + b" " + b"x" * size
            try:
                self.producer.produce(self.topic, value=value, partition=p, on_delivery=self.delivered(p, self.next[p]))
            except BufferError:
                break
            self.next[p] += 1
        self.producer.poll(0)


def read(topic, partition):
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "error", "check.crcs": True})
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
    numbers, offsets, deadline = [], [], time.monotonic() + 120
    while time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            if message.error().code() == KafkaError._PARTITION_EOF:
                consumer.close()
                return numbers, offsets
            sys.exit(f"{topic}-{partition}: {message.error()}")
        numbers.append(int(message.value().split(b" ", 1)[0]))
        offsets.append(message.offset())
    sys.exit(f"{topic}-{partition}: no end within two minutes")


def main():
    broker, _ = start()
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    for future in admin.create_topics([NewTopic("kill-idempotent", PARTITIONS, 1), NewTopic("kill-plain", PARTITIONS, 1)]).values():
        future.result()
    idempotent = Writer("kill-idempotent", **{"enable.idempotence": True})
    plain = Writer("kill-plain", **{"enable.idempotence": False, "max.in.flight.requests.per.connection": 1})
    starts = []
    for round_ in range(ROUNDS):
        end = time.monotonic() + chance.uniform(0.05, 1.2)
        while time.monotonic() < end:
            idempotent.write(50)
            plain.write(20)
        os.kill(broker.pid, signal.SIGKILL)
        broker.wait()
        broker, seconds = start()
        starts.append(seconds)
        if (round_ + 1) % 10 == 0:
            print(f"{round_ + 1} kills, {sum(map(len, idempotent.acked))} + {sum(map(len, plain.acked))} acknowledged", flush=True)
    for writer in (idempotent, plain):
        left = writer.producer.flush(120)
        if left:
            sys.exit(f"{writer.topic}: {left} records were never acknowledged")
    lost = doubled = disordered = 0
    for p in range(PARTITIONS):
        numbers, offsets = read("kill-idempotent", p)
        disordered += numbers != list(range(idempotent.next[p])) or offsets != list(range(len(offsets)))
        lost += len(idempotent.acked[p] - set(numbers))
        doubled += len(numbers) - len(set(numbers))
        numbers, offsets = read("kill-plain", p)
        lost += len(plain.acked[p] - set(numbers))
        disordered += offsets != list(range(len(offsets)))
    broker.terminate()
    code = broker.wait()
    starts.sort()
    print(json.dumps({
        "kills": ROUNDS, "seed": SEED, "acknowledged": sum(map(len, idempotent.acked)) + sum(map(len, plain.acked)),
        "failed": len(idempotent.failed) + len(plain.failed), "lost": lost, "doubled": doubled, "partitions out of order": disordered,
        "start median s": round(starts[len(starts) // 2], 3) if starts else None, "start max s": round(starts[-1], 3) if starts else None,
        "clean stop": code == 0,
    }))
    if lost or doubled or disordered or code or idempotent.failed or plain.failed:
        sys.exit(f"FAILED; the data is kept in {DATA}: {(idempotent.failed + plain.failed)[:5]}")


main()
