"""Consumer groups through confluent-kafka (librdkafka): python groups.py HOST:PORT. Prints what a user observes, the same on every broker."""
import sys
import time

from confluent_kafka import Consumer, ConsumerGroupState, KafkaException, Producer, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP = sys.argv[1]
PROTOCOLS = {
    "range": {"partition.assignment.strategy": "range"},
    "roundrobin": {"partition.assignment.strategy": "roundrobin"},
    "cooperative-sticky": {"partition.assignment.strategy": "cooperative-sticky"},
    "consumer": {"group.protocol": "consumer"},
}
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})


def say(*words):
    print(*words, flush=True)


def wait_until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"waited {seconds} s for {what}")


def make(topic, partitions):
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result()
    # The metadata of every broker has it before anybody subscribes.
    wait_until(topic, lambda: topic in admin.list_topics(timeout=10).topics)


def produce(topic, partitions, count, first=0):
    producer = Producer({"bootstrap.servers": BOOTSTRAP})
    for i in range(first, first + count):
        producer.produce(topic, value=str(i), partition=i % partitions)
    assert producer.flush(60) == 0


class Member:
    def __init__(self, group, topics, **config):
        self.revoked = self.assigned = 0
        self.consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group, "enable.auto.commit": False,
                                  "auto.offset.reset": "earliest", **config})
        self.got = []
        self.consumer.subscribe(topics, on_assign=self.on_assign, on_revoke=self.on_revoke)

    def on_assign(self, _, partitions): self.assigned += len(partitions)
    def on_revoke(self, _, partitions): self.revoked += len(partitions)

    def poll(self, seconds=0.05):
        message = self.consumer.poll(seconds)
        if message and not message.error():
            self.got.append((message.partition(), message.offset(), message.value().decode()))

    def partitions(self): return sorted((p.topic, p.partition) for p in self.consumer.assignment())
    def close(self): self.consumer.close()


def poll_until(what, members, condition):
    def step():
        for member in members:
            member.poll()
        return condition()
    wait_until(what, step)


def committed(group):
    found = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result()
    return sorted((p.topic, p.partition, p.offset, p.metadata or "") for p in found.topic_partitions)


def state(group):
    found = admin.describe_consumer_groups([group])[group].result()
    return found.state.name, len(found.members)


def resume(name, config):
    """Read, commit, go; somebody else goes on where the first stopped."""
    topic, group = f"cg-resume-{name}", f"resume-{name}"
    make(topic, 3)
    produce(topic, 3, 30)
    first = Member(group, [topic], **config)
    poll_until("30 records", [first], lambda: len(first.got) == 30)
    result = first.consumer.commit(asynchronous=False)
    say(name, "committed", sorted((p.partition, p.offset) for p in result))
    first.close()
    produce(topic, 3, 6, first=30)
    second = Member(group, [topic], **config)
    poll_until("6 records", [second], lambda: len(second.got) >= 6)
    say(name, "goes on with", sorted(second.got))
    second.consumer.commit(asynchronous=False)
    second.close()
    say(name, "in the end", committed(group))


def share(name, config):
    """Two members share, one goes, the other has all."""
    topic, group = f"cg-share-{name}", f"share-{name}"
    make(topic, 4)
    one = Member(group, [topic], **config)
    poll_until("all partitions", [one], lambda: len(one.partitions()) == 4)
    two = Member(group, [topic], **config)
    poll_until("two halves", [one, two], lambda: len(one.partitions()) == 2 and len(two.partitions()) == 2)
    say(name, "share", sorted(one.partitions() + two.partitions()), state(group)[1])
    two.close()
    poll_until("all partitions again", [one], lambda: len(one.partitions()) == 4)
    say(name, "alone", one.partitions(), state(group)[1])
    one.close()
    wait_until("an empty group", lambda: state(group) == ("EMPTY", 0))
    say(name, "closed", state(group))


def static(name, config):
    """A static member comes back to its partitions, and the other does not notice."""
    topic, group = f"cg-static-{name}", f"static-{name}"
    make(topic, 4)
    one = Member(group, [topic], **config, **{"group.instance.id": "one"})
    two = Member(group, [topic], **config, **{"group.instance.id": "two"})
    poll_until("two halves", [one, two], lambda: len(one.partitions()) == 2 and len(two.partitions()) == 2)
    had, changes = two.partitions(), (one.assigned, one.revoked)
    two.close()
    again = Member(group, [topic], **config, **{"group.instance.id": "two"})
    poll_until("its half again", [one, again], lambda: again.partitions() == had)
    say(name, "static member back", again.partitions() == had, "the other undisturbed", changes == (one.assigned, one.revoked))
    one.close()
    again.close()


def groups_of(admin_groups):
    return sorted((g.group_id, g.state.name, g.type.name) for g in admin_groups if "admin-" in g.group_id)


def administer():
    topic, group = "cg-admin", "admin-group"
    make(topic, 2)
    produce(topic, 2, 10)
    offsets = [TopicPartition(topic, 0, 3), TopicPartition(topic, 1, 4)]
    admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, offsets)])[group].result()
    say("altered", committed(group), state(group))
    say("listed", groups_of(admin.list_consumer_groups().result().valid))
    empty = admin.list_consumer_groups(states={ConsumerGroupState.STABLE}).result().valid
    say("listed stable", groups_of(empty))
    member = Member(group, [topic])
    poll_until("7 records", [member], lambda: len(member.got) >= 3)
    say("reads from there", sorted(member.got)[0][1] in (3, 4))
    for what, call in [("alter with a member", lambda: admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, offsets)])), ("delete with a member", lambda: admin.delete_consumer_groups([group]))]:
        try:
            call()[group].result()
            say(what, "ok")
        except KafkaException as e:
            say(what, e.args[0].name())
    member.close()
    wait_until("an empty group", lambda: state(group) == ("EMPTY", 0))
    admin.delete_consumer_groups([group])[group].result()
    for gone in (group, "never-there"):
        try:
            admin.delete_consumer_groups([gone])[gone].result()
        except KafkaException as e:
            say("delete", gone, e.args[0].name())
    say("after", committed(group))


def odd_commits():
    """Commits that no member made."""
    topic, group = "cg-odd", "odd-group"
    make(topic, 1)
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": group})
    for what, partition in [("plain", TopicPartition(topic, 0, 7, metadata="note")), ("no such partition", TopicPartition(topic, 9, 1)),
                            ("large metadata", TopicPartition(topic, 0, 8, metadata="x" * 5000))]:
        try:
            done = consumer.commit(offsets=[partition], asynchronous=False)
            say(what, [(p.partition, p.offset, p.error.name() if p.error else None) for p in done])
        except KafkaException as e:
            say(what, e.args[0].name())
    say("committed", [(p.offset, p.metadata) for p in consumer.committed([TopicPartition(topic, 0)], timeout=10)])
    consumer.close()
    admin.delete_topics([topic])[topic].result()
    wait_until("offsets of a deleted topic", lambda: committed(group) == [])
    say("after the topic's deletion", committed(group))


administer()
odd_commits()
for name, config in PROTOCOLS.items():
    resume(name, config)
    share(name, config)
    if name in ("range", "consumer"):
        static(name, config)
