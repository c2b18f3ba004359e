// Consumer groups of Apache Kafka's Java clients against a broker: java -cp 'lib/*' Groups.java HOST:PORT.
// Eager, cooperative and KIP-848: what a user observes while a second member comes and goes, the same on every broker.

import java.time.Duration;
import java.util.*;
import java.util.function.BooleanSupplier;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

public class Groups {
    static final int PARTITIONS = 6;
    static String bootstrap;

    static void say(Object... words) {
        System.out.println(Arrays.stream(words).map(String::valueOf).collect(Collectors.joining(" ")));
    }

    /** A member, what it read, and what it was told to give up. */
    static class Member implements ConsumerRebalanceListener, AutoCloseable {
        final KafkaConsumer<String, String> consumer;
        final Set<Integer> revoked = new TreeSet<>();
        int read;

        Member(String kind, Map<String, Object> settings) {
            Map<String, Object> all = new HashMap<>(settings);
            all.put("bootstrap.servers", bootstrap);
            all.put("group.id", "jg-" + kind);
            all.put("auto.offset.reset", "earliest");
            all.put("enable.auto.commit", false);
            consumer = new KafkaConsumer<>(all, new StringDeserializer(), new StringDeserializer());
            consumer.subscribe(List.of("jg-" + kind), this);
        }

        @Override public void onPartitionsAssigned(Collection<TopicPartition> given) {}

        @Override public void onPartitionsRevoked(Collection<TopicPartition> taken) {
            taken.forEach(p -> revoked.add(p.partition()));
        }

        List<Integer> has() {
            return consumer.assignment().stream().map(TopicPartition::partition).sorted().toList();
        }

        List<Long> positions() {
            return has().stream().map(p -> consumer.position(new TopicPartition(consumer.subscription().iterator().next(), p))).toList();
        }

        @Override public void close() {
            consumer.close();
        }
    }

    static void until(String what, BooleanSupplier reached, Member... members) {
        long end = System.nanoTime() + 120_000_000_000L;
        while (!reached.getAsBoolean()) {
            if (System.nanoTime() > end) throw new IllegalStateException("waited two minutes for " + what);
            for (Member m : members) m.read += m.consumer.poll(Duration.ofMillis(50)).count();
        }
    }

    static void produce(String topic, int each) throws Exception {
        try (var producer = new KafkaProducer<>(Map.<String, Object>of("bootstrap.servers", bootstrap), new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < each * PARTITIONS; i++) producer.send(new ProducerRecord<>(topic, i % PARTITIONS, null, "v" + i)).get();
        }
    }

    static ConsumerGroupDescription described(Admin admin, String kind) {
        try {
            return admin.describeConsumerGroups(List.of("jg-" + kind)).all().get().get("jg-" + kind);
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    static void rebalances(Admin admin, String kind, Map<String, Object> settings) throws Exception {
        String topic = "jg-" + kind;
        admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 1))).all().get();
        produce(topic, 10);
        Member one = new Member(kind, settings);
        until("all of it", () -> one.has().size() == PARTITIONS && one.read >= 10 * PARTITIONS, one);
        say(kind, "read", one.read);
        one.consumer.commitSync();
        Member two = new Member(kind, settings);
        until("two halves", () -> one.has().size() == 3 && two.has().size() == 3, one, two);
        say(kind, "together", Stream.concat(one.has().stream(), two.has().stream()).sorted().toList(), "revoked meanwhile", one.revoked.size());
        say(kind, "the newcomer goes on at", two.positions(), "after", two.read);
        two.close();
        until("the other half", () -> one.has().size() == PARTITIONS, one);
        produce(topic, 1);
        until("what is new", () -> one.read >= 11 * PARTITIONS, one);
        one.consumer.commitSync();
        say(kind, "read", one.read, "at", one.positions());
        one.close();
        try (Member again = new Member(kind, settings)) {
            until("everything again", () -> again.has().size() == PARTITIONS, again);
            say(kind, "goes on at", again.positions(), "after", again.read);
            until("a stable group", () -> described(admin, kind).groupState() == GroupState.STABLE, again);
            ConsumerGroupDescription found = described(admin, kind);
            say(kind, found.type(), "members", found.members().size(), "by", found.partitionAssignor());
        }
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            for (String assignor : List.of("Range", "RoundRobin", "CooperativeSticky")) {
                String name = "org.apache.kafka.clients.consumer." + assignor + "Assignor";
                rebalances(admin, assignor, Map.of("partition.assignment.strategy", name, "heartbeat.interval.ms", 300));
            }
            rebalances(admin, "consumer", Map.of("group.protocol", "consumer"));
        }
    }
}
