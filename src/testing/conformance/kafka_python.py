"""kafka-python's consumer groups against a broker: python kafka_python.py HOST:PORT. Prints what a user observes, the same on every broker."""
import sys
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

BOOTSTRAP, TOPIC = sys.argv[1], "cgpy"
PARTITIONS = [TopicPartition(TOPIC, p) for p in range(4)]


def member():
    return KafkaConsumer(TOPIC, bootstrap_servers=BOOTSTRAP, group_id="cgpy-group", auto_offset_reset="earliest",
                         enable_auto_commit=False, session_timeout_ms=6000, heartbeat_interval_ms=500)


def poll_until(what, members, condition):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"waited a minute for {what}")
        for m in members:
            for records in m.poll(100).values():
                seen.extend((r.partition, r.offset) for r in records)


seen = []
KafkaAdminClient(bootstrap_servers=BOOTSTRAP).create_topics([NewTopic(TOPIC, 4, 1)])
producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
for i in range(40):
    producer.send(TOPIC, value=b"%d" % i, partition=i % 4)
producer.flush()
one = member()
poll_until("40 records", [one], lambda: len(seen) >= 40)
one.commit()
print("committed", [one.committed(p) for p in PARTITIONS])
two = member()
poll_until("two halves", [one, two], lambda: len(one.assignment()) == len(two.assignment()) == 2)
print("share", sorted(p.partition for p in one.assignment() | two.assignment()))
two.close()
poll_until("all again", [one], lambda: len(one.assignment()) == 4)
one.close()
again = member()
poll_until("all of a newcomer", [again], lambda: len(again.assignment()) == 4)
print("goes on at", [again.position(p) for p in PARTITIONS])
again.close()
