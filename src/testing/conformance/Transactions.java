// Transactions of Apache Kafka's Java clients against a broker: java -cp 'lib/*' Transactions.java HOST:PORT.
// Prints what a user observes, the same on every broker.

import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.serialization.*;

public class Transactions {
    static String bootstrap;

    static void say(Object... words) {
        System.out.println(Arrays.stream(words).map(String::valueOf).collect(Collectors.joining(" ")));
    }

    interface Action<V> { V run() throws Exception; }

    static void attempt(String what, Action<?> action) {
        try {
            Object result = action.run();
            say(what, result == null ? "ok" : result);
        } catch (ExecutionException e) {
            say(what, "error", e.getCause().getClass().getSimpleName());
        } catch (Exception e) {
            say(what, "error", e.getClass().getSimpleName());
        }
    }

    static Map<String, Object> with(Object... settings) {
        Map<String, Object> all = new HashMap<>();
        all.put("bootstrap.servers", bootstrap);
        for (int i = 0; i < settings.length; i += 2) all.put((String) settings[i], settings[i + 1]);
        return all;
    }

    static KafkaProducer<String, String> producer(String id) {
        return new KafkaProducer<>(with("transactional.id", id, "transaction.timeout.ms", 60_000), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(Object... settings) {
        Map<String, Object> all = with(settings);
        all.put("auto.offset.reset", "earliest");
        all.put("enable.auto.commit", false);
        return new KafkaConsumer<>(all, new StringDeserializer(), new StringDeserializer());
    }

    /** Everything of a topic that a reader of this isolation gets up to the end it sees. */
    static String read(String topic, int partitions, String isolation) {
        try (KafkaConsumer<String, String> c = consumer("isolation.level", isolation)) {
            List<TopicPartition> all = IntStream.range(0, partitions).mapToObj(p -> new TopicPartition(topic, p)).toList();
            c.assign(all);
            c.seekToBeginning(all);
            Map<TopicPartition, Long> ends = c.endOffsets(all);
            List<String> seen = new ArrayList<>();
            while (all.stream().anyMatch(tp -> c.position(tp) < ends.get(tp))) {
                for (ConsumerRecord<String, String> r : c.poll(Duration.ofMillis(200))) {
                    if (r.offset() < ends.get(new TopicPartition(topic, r.partition()))) seen.add(r.partition() + "@" + r.offset() + "=" + r.value());
                }
            }
            Collections.sort(seen);
            return new TreeMap<>(ends.entrySet().stream().collect(Collectors.toMap(e -> e.getKey().partition(), Map.Entry::getValue))) + " " + seen;
        }
    }

    static void reads(String what, String topic, int partitions) {
        say(what, "committed", read(topic, partitions, "read_committed"));
        say(what, "uncommitted", read(topic, partitions, "read_uncommitted"));
    }

    static Object state(Admin admin, String id) throws Exception {
        for (;;) {
            TransactionDescription d = admin.describeTransactions(List.of(id)).description(id).get();
            if (d.state() == TransactionState.PREPARE_COMMIT || d.state() == TransactionState.PREPARE_ABORT) {
                Thread.sleep(5);
                continue;
            }
            return d.state() + " epoch " + d.producerEpoch() + " timeout " + d.transactionTimeoutMs() + " began " + d.transactionStartTimeMs().isPresent()
                + " " + d.topicPartitions().stream().map(String::valueOf).filter(p -> !p.startsWith("__")).sorted().toList();
        }
    }

    static Object committed(Admin admin, String group) throws Exception {
        return new TreeMap<>(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().entrySet().stream()
            .collect(Collectors.toMap(e -> e.getKey().toString(), e -> e.getValue().offset() + "/" + e.getValue().metadata())));
    }

    static void ends(Admin admin) throws Exception {
        try (KafkaProducer<String, String> p = producer("tj-one")) {
            p.initTransactions();
            say("init", state(admin, "tj-one"));
            p.beginTransaction();
            for (int i = 0; i < 6; i++) p.send(new ProducerRecord<>("tj-out", i % 3, "k", "a" + i)).get();
            say("open", state(admin, "tj-one"));
            reads("open", "tj-out", 3);
            p.commitTransaction();
            say("committed", state(admin, "tj-one"));
            reads("committed", "tj-out", 3);
            p.beginTransaction();
            for (int i = 0; i < 3; i++) p.send(new ProducerRecord<>("tj-out", 0, "k", "lost" + i));
            p.flush();
            p.abortTransaction();
            say("aborted", state(admin, "tj-one"));
            reads("aborted", "tj-out", 3);
            p.beginTransaction();
            p.commitTransaction();
            p.beginTransaction();
            p.abortTransaction();
            say("empty ones", state(admin, "tj-one"));
            p.beginTransaction();
            p.send(new ProducerRecord<>("tj-out", 1, "k", "after")).get();
            p.commitTransaction();
            say("after", state(admin, "tj-one"));
            reads("after", "tj-out", 3);
        }
    }

    static void fences(Admin admin) throws Exception {
        KafkaProducer<String, String> old = producer("tj-two");
        old.initTransactions();
        old.beginTransaction();
        old.send(new ProducerRecord<>("tj-out", 0, "k", "zombie")).get();
        KafkaProducer<String, String> next = producer("tj-two");
        next.initTransactions();
        say("taken over", state(admin, "tj-two"));
        attempt("the old one sends", () -> { old.send(new ProducerRecord<>("tj-out", 1, "k", "zombie")).get(); return null; });
        attempt("the old one commits", () -> { old.commitTransaction(); return null; });
        next.beginTransaction();
        next.send(new ProducerRecord<>("tj-out", 0, "k", "successor")).get();
        next.commitTransaction();
        say("successor", state(admin, "tj-two"));
        attempt("fenced by the admin", () -> admin.fenceProducers(List.of("tj-two")).epochId("tj-two").get());
        attempt("begins", () -> { next.beginTransaction(); next.send(new ProducerRecord<>("tj-out", 0, "k", "late")).get(); next.commitTransaction(); return null; });
        reads("fenced", "tj-out", 3);
        old.close(Duration.ZERO);
        next.close(Duration.ZERO);
    }

    static void copies(Admin admin, String protocol) throws Exception {
        String group = "tj-" + protocol, out = "tj-copy-" + protocol;
        admin.createTopics(List.of(new NewTopic(out, 1, (short) 1))).all().get();
        try (KafkaProducer<String, String> p = producer("tj-copy-" + protocol);
             KafkaConsumer<String, String> c = consumer("group.id", group, "group.protocol", protocol, "isolation.level", "read_committed", "max.poll.records", 5)) {
            p.initTransactions();
            c.subscribe(List.of("tj-in"));
            int copied = 0, round = 0;
            while (copied < 20) {
                ConsumerRecords<String, String> records = c.poll(Duration.ofSeconds(1));
                if (records.isEmpty()) continue;
                p.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                for (ConsumerRecord<String, String> r : records) {
                    p.send(new ProducerRecord<>(out, 0, r.key(), r.value()));
                    offsets.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1, "m"));
                }
                p.sendOffsetsToTransaction(offsets, c.groupMetadata());
                if (round++ % 3 == 1) {
                    p.abortTransaction();
                    // From where it was: what the aborted one had read is read again.
                    Map<TopicPartition, OffsetAndMetadata> back = c.committed(c.assignment());
                    for (TopicPartition tp : c.assignment()) {
                        OffsetAndMetadata at = back.get(tp);
                        c.seek(tp, at == null ? 0 : at.offset());
                    }
                } else {
                    p.commitTransaction();
                    copied += records.count();
                }
            }
            state(admin, "tj-copy-" + protocol);
            say(protocol, "copied", copied, committed(admin, group));
            p.beginTransaction();
            Map<TopicPartition, OffsetAndMetadata> one = Map.of(new TopicPartition("tj-in", 0), new OffsetAndMetadata(1, "z"));
            ConsumerGroupMetadata mine = c.groupMetadata();
            for (ConsumerGroupMetadata zombie : List.of(
                    new ConsumerGroupMetadata(group, mine.generationId() + 7, mine.memberId(), Optional.empty()),
                    new ConsumerGroupMetadata(group, mine.generationId(), "nobody", Optional.empty()),
                    new ConsumerGroupMetadata(group, 3, "nobody", Optional.of("instance")))) {
                attempt(protocol + " zombie", () -> { p.sendOffsetsToTransaction(one, zombie); p.commitTransaction(); return null; });
                p.abortTransaction();
                p.beginTransaction();
            }
            p.abortTransaction();
            state(admin, "tj-copy-" + protocol);
            say(protocol, "unharmed", committed(admin, group));
        }
        List<String> values = new ArrayList<>(List.of(read(out, 1, "read_committed").replaceAll(".*\\[(.*)\\]", "$1").split(", ")));
        values.replaceAll(v -> v.replaceAll(".*=", ""));
        Collections.sort(values);
        say(protocol, values);
    }

    static void lists(Admin admin) throws Exception {
        List<String> all = admin.listTransactions().all().get().stream().filter(t -> t.transactionalId().startsWith("tj-"))
            .map(t -> t.transactionalId() + " " + t.state()).sorted().toList();
        say("listed", all);
        say("ongoing", admin.listTransactions(new ListTransactionsOptions().filterStates(List.of(TransactionState.ONGOING))).all().get().size());
        say("pattern", admin.listTransactions(new ListTransactionsOptions().filterOnTransactionalIdPattern("tj-(one|two)")).all().get().size());
        attempt("bad pattern", () -> admin.listTransactions(new ListTransactionsOptions().filterOnTransactionalIdPattern("(")).all().get());
        attempt("described", () -> admin.describeTransactions(List.of("tj-none")).description("tj-none").get());
        attempt("timeout", () -> {
            try (KafkaProducer<String, String> p = new KafkaProducer<>(with("transactional.id", "tj-long", "transaction.timeout.ms", 900_001),
                    new StringSerializer(), new StringSerializer())) {
                p.initTransactions();
            }
            return null;
        });
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        try (Admin admin = Admin.create(with())) {
            admin.createTopics(List.of(new NewTopic("tj-in", 2, (short) 1), new NewTopic("tj-out", 3, (short) 1))).all().get();
            try (KafkaProducer<String, String> p = new KafkaProducer<>(with(), new StringSerializer(), new StringSerializer())) {
                for (int i = 0; i < 20; i++) p.send(new ProducerRecord<>("tj-in", i % 2, "k" + i, String.format("v%02d", i))).get();
            }
            ends(admin);
            fences(admin);
            copies(admin, "classic");
            copies(admin, "consumer");
            lists(admin);
        }
    }
}
