// Apache Kafka Streams, unmodified, with exactly_once_v2: a stateful word count, and a join of two streams with sums of what was joined.
//   java -cp 'lib/*' Streams.java compare HOST:PORT STATE_DIR       one run, prints what a user observes, the same on every broker
//   java -cp 'lib/*' Streams.java app HOST:PORT STATE_DIR           only the application, until it is killed
//   java -cp 'lib/*' Streams.java kill ROUNDS STATE_DIR PORT SEED BROKER_COMMAND…
// kill: the application and the broker are killed (SIGKILL), one of them or both, in every round, while records come in. At the end the output must
// be that of the model: each word's counts 1, 2, 3, … in this order, each pair once, each customer's sums without a step left out or taken twice.

import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.KeyValueStore;

public class Streams {
    static final String APPLICATION = "ts-app";
    static final List<String> OUTPUTS = List.of("ts-counts", "ts-pairs", "ts-sums");
    static final int PARTITIONS = 2;
    static final String[] WORDS = "all streams lead to kafka hello kafka streams join the log of many words and a word more".split(" ");
    /** Records have times of their own, a second apart: what a window holds does not depend on the clock. */
    static final long BEGAN = System.currentTimeMillis() - 3_600_000;

    static String bootstrap;

    static void say(Object... words) {
        System.out.println(Arrays.stream(words).map(String::valueOf).collect(Collectors.joining(" ")));
    }

    static Map<String, Object> with(Object... settings) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", bootstrap, "reconnect.backoff.max.ms", 200));
        for (int i = 0; i < settings.length; i += 2) all.put((String) settings[i], settings[i + 1]);
        return all;
    }

    // -- the application

    static Topology topology() {
        StreamsBuilder b = new StreamsBuilder();
        Consumed<String, String> text = Consumed.with(Serdes.String(), Serdes.String());
        b.stream("ts-lines", text)
            .flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.with("words", Serdes.String(), Serdes.String()))
            .count(Materialized.as("counts"))
            .toStream().mapValues(String::valueOf)
            .to("ts-counts", Produced.with(Serdes.String(), Serdes.String()));
        KStream<String, String> pairs = b.stream("ts-orders", text).join(b.stream("ts-payments", text), (order, paid) -> order + "+" + paid,
            JoinWindows.ofTimeDifferenceAndGrace(Duration.ofHours(6), Duration.ofHours(6)),
            StreamJoined.with(Serdes.String(), Serdes.String(), Serdes.String()).withName("pairs"));
        pairs.to("ts-pairs", Produced.with(Serdes.String(), Serdes.String()));
        pairs.groupBy((order, pair) -> pair.split(":")[0], Grouped.with("customers", Serdes.String(), Serdes.String()))
            .aggregate(() -> 0L, (customer, pair, sum) -> sum + Long.parseLong(pair.split("\\+")[1]),
                Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("sums")
                    .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
            .toStream().mapValues(String::valueOf)
            .to("ts-sums", Produced.with(Serdes.String(), Serdes.String()));
        return b.build();
    }

    static KafkaStreams application(String stateDir, int inFlight) {
        Properties p = new Properties();
        p.putAll(with("application.id", APPLICATION, "processing.guarantee", "exactly_once_v2", "num.stream.threads", 2, "state.dir", stateDir,
            "statestore.cache.max.bytes", 0, "commit.interval.ms", 50, "replication.factor", 1, "auto.offset.reset", "earliest",
            "producer.max.in.flight.requests.per.connection", inFlight, "session.timeout.ms", 6_000, "heartbeat.interval.ms", 500, "transaction.timeout.ms", 10_000,
            "default.key.serde", Serdes.StringSerde.class, "default.value.serde", Serdes.StringSerde.class));
        KafkaStreams streams = new KafkaStreams(topology(), p);
        streams.setUncaughtExceptionHandler(e -> {
            // As operators set it: the application goes on with a new thread.
            e.printStackTrace();
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        return streams;
    }

    // -- what goes in, and the model

    /** Everything a round of numbers brings, and what must come of it. */
    static class Model {
        final Map<String, Long> words = new TreeMap<>();
        final List<String> pairs = new ArrayList<>();
        final Map<String, Long> sums = new TreeMap<>();
        final Map<String, Integer> steps = new TreeMap<>();
        int next;
        long outputs() { return words.values().stream().mapToLong(w -> w).sum() + 2L * pairs.size(); }
    }

    static KafkaProducer<String, String> feeder() {
        // One request at a time: Kafka loses the order of the first ones when a new topic is not yet in force where they arrive.
        return new KafkaProducer<>(with("delivery.timeout.ms", 600_000, "linger.ms", 2, "max.in.flight.requests.per.connection", 1), new StringSerializer(), new StringSerializer());
    }

    /** Sends the next records: a line each, an order each, one or two payments for most of them, some payments ahead of their orders. */
    static void feed(KafkaProducer<String, String> p, Model m, int records) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (int end = m.next + records; m.next < end; m.next++) {
            int i = m.next;
            long at = BEGAN + i * 1_000L % 3_000_000;
            String line = IntStream.range(0, 1 + i % 5).mapToObj(w -> WORDS[(i * 7 + w * 5) % WORDS.length]).collect(Collectors.joining(" "));
            sent.add(p.send(new ProducerRecord<>("ts-lines", i % PARTITIONS, at, "k" + i, line)));
            for (String word : line.split(" ")) m.words.merge(word, 1L, Long::sum);
            String order = "o" + i, customer = "c" + i % 7;
            List<ProducerRecord<String, String>> both = new ArrayList<>();
            both.add(new ProducerRecord<>("ts-orders", null, at, order, customer + ":" + order));
            for (int n = 0; n < i % 3; n++) {
                long amount = 1 + (i * 31L + n) % 97;
                both.add(new ProducerRecord<>("ts-payments", null, at + n, order, String.valueOf(amount)));
                m.pairs.add(customer + ":" + order + "+" + amount);
                m.sums.merge(customer, amount, Long::sum);
                m.steps.merge(customer, 1, Integer::sum);
            }
            if (i % 2 == 1) Collections.reverse(both);
            for (ProducerRecord<String, String> r : both) sent.add(p.send(r));
        }
        for (Future<RecordMetadata> f : sent) f.get();
    }

    static void topics(Admin admin) throws Exception {
        List<NewTopic> all = new ArrayList<>();
        for (String t : List.of("ts-lines", "ts-orders", "ts-payments", "ts-counts", "ts-pairs", "ts-sums")) all.add(new NewTopic(t, PARTITIONS, (short) 1));
        admin.createTopics(all).all().get();
    }

    // -- what comes out

    static class Output {
        final Map<String, List<String>> counts = new TreeMap<>(), sums = new TreeMap<>();
        final List<String> pairs = new ArrayList<>();
        final KafkaConsumer<String, String> c;
        long seen;

        Output() {
            c = new KafkaConsumer<>(with("isolation.level", "read_committed", "auto.offset.reset", "earliest", "enable.auto.commit", false),
                new StringDeserializer(), new StringDeserializer());
            c.assign(OUTPUTS.stream().flatMap(t -> IntStream.range(0, PARTITIONS).mapToObj(p -> new TopicPartition(t, p))).toList());
        }

        void poll() {
            for (ConsumerRecord<String, String> r : c.poll(Duration.ofMillis(200))) {
                seen++;
                switch (r.topic()) {
                    case "ts-counts" -> counts.computeIfAbsent(r.key(), k -> new ArrayList<>()).add(r.value());
                    case "ts-sums" -> sums.computeIfAbsent(r.key(), k -> new ArrayList<>()).add(r.value());
                    default -> pairs.add(r.value());
                }
            }
        }

        /** Reads until as many records are there as there must be, or too long passed; then up to the ends: there may be too many. */
        void waitFor(long outputs, long seconds) {
            long until = System.nanoTime() + seconds * 1_000_000_000L;
            while (seen < outputs) {
                if (System.nanoTime() > until) throw new IllegalStateException("only " + seen + " of " + outputs + " results within " + seconds + " s");
                poll();
            }
        }

        void toTheEnds() {
            Map<TopicPartition, Long> ends = c.endOffsets(c.assignment());
            while (ends.entrySet().stream().anyMatch(e -> c.position(e.getKey()) < e.getValue())) poll();
        }

        /** What is wrong, in words; nothing when the output is the model's. */
        List<String> against(Model m) {
            List<String> wrong = new ArrayList<>();
            m.words.forEach((word, n) -> {
                List<String> expected = LongStream.rangeClosed(1, n).mapToObj(String::valueOf).toList(), found = counts.getOrDefault(word, List.of());
                if (!expected.equals(found)) wrong.add("count of '" + word + "': expected 1 to " + n + ", found " + found);
            });
            if (!counts.keySet().equals(m.words.keySet())) wrong.add("words counted: expected " + m.words.keySet() + ", found " + counts.keySet());
            List<String> expected = new ArrayList<>(m.pairs), found = new ArrayList<>(pairs);
            Collections.sort(expected);
            Collections.sort(found);
            if (!expected.equals(found)) {
                List<String> lost = new ArrayList<>(expected), more = new ArrayList<>(found);
                for (String p : found) lost.remove(p);
                for (String p : expected) more.remove(p);
                wrong.add("pairs: lost " + lost + ", too many " + more);
            }
            m.sums.forEach((customer, sum) -> {
                List<Long> path = sums.getOrDefault(customer, List.of()).stream().map(Long::valueOf).toList();
                boolean rises = IntStream.range(1, path.size()).allMatch(i -> path.get(i - 1) < path.get(i));
                if (path.size() != m.steps.get(customer) || !rises || !path.get(path.size() - 1).equals(sum)) {
                    wrong.add("sum of " + customer + ": expected " + sum + " in " + m.steps.get(customer) + " steps, found " + path);
                }
            });
            return wrong;
        }
    }

    // -- one run, to compare

    static Object settings(Admin admin, String topic) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Config config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
        int partitions = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size();
        return partitions + " " + Stream.of("cleanup.policy", "message.timestamp.type", "segment.bytes", "retention.ms").map(k -> k + "=" + config.get(k).value()).toList();
    }

    static void compare(String stateDir) throws Exception {
        Model m = new Model();
        try (Admin admin = Admin.create(with()); KafkaProducer<String, String> p = feeder()) {
            topics(admin);
            feed(p, m, 200);
            KafkaStreams streams = application(stateDir, 1);
            streams.start();
            Output out = new Output();
            out.waitFor(m.outputs(), 120);
            feed(p, m, 100);
            out.waitFor(m.outputs(), 120);
            boolean closed = streams.close(Duration.ofSeconds(60));
            // Again, from its own state: nothing comes twice.
            KafkaStreams again = application(stateDir, 1);
            again.start();
            feed(p, m, 100);
            out.waitFor(m.outputs(), 120);
            say("closed", closed, again.close(Duration.ofSeconds(60)));
            out.toTheEnds();
            say("against the model", out.against(m));
            out.counts.forEach((word, counts) -> say("count", word, counts.get(counts.size() - 1), "in", counts.size()));
            out.sums.forEach((customer, sums) -> say("sum", customer, sums.get(sums.size() - 1), "in", sums.size()));
            say("pairs", out.pairs.size(), out.pairs.stream().distinct().count());
            for (String t : new TreeSet<>(admin.listTopics().names().get())) if (t.startsWith("ts-")) say("topic", t, settings(admin, t));
            say("committed", new TreeMap<>(admin.listConsumerGroupOffsets(APPLICATION,
                new ListConsumerGroupOffsetsOptions().requireStable(true)).partitionsToOffsetAndMetadata().get().entrySet().stream()
                .filter(e -> !e.getKey().topic().startsWith(APPLICATION)).collect(Collectors.toMap(e -> e.getKey().toString(), e -> e.getValue().offset()))));
            say("open transactions", admin.listTransactions().all().get().stream().filter(t -> t.transactionalId().startsWith(APPLICATION))
                .filter(t -> t.state() == TransactionState.ONGOING).count());
            out.c.close();
        }
    }

    // -- with kills

    static Process run(String log, boolean speaks, List<String> command) throws Exception {
        ProcessBuilder b = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.appendTo(Path.of(log).toFile()));
        b.redirectOutput(speaks ? ProcessBuilder.Redirect.PIPE : ProcessBuilder.Redirect.appendTo(Path.of(log).toFile()));
        Process p = b.start();
        // The broker says a line when it serves.
        if (speaks && p.inputReader().readLine() == null) throw new IllegalStateException("the broker did not start, exit code " + p.waitFor() + "; see " + log);
        return p;
    }

    static void kill(int rounds, String dir, long seed, List<String> brokerCommand, List<String> appCommand) throws Exception {
        Random chance = new Random(seed);
        Model m = new Model();
        Process broker = run(dir + "/broker.log", true, brokerCommand), app = null;
        int brokerKills = 0, appKills = 0;
        try (Admin admin = Admin.create(with()); KafkaProducer<String, String> p = feeder()) {
            topics(admin);
            feed(p, m, 50);
            app = run(dir + "/app.log", false, appCommand);
            Output out = new Output();
            out.waitFor(1, 120);
            for (int round = 0; round < rounds; round++) {
                // Records come in all the while: the kills hit some of them on their way.
                int more = 100 + chance.nextInt(200), what = round % 3;
                long before = out.seen;
                Thread feeding = new Thread(() -> {
                    try { for (int i = 0; i < 10; i++) { feed(p, m, more / 10); Thread.sleep(20); } } catch (Exception e) { throw new IllegalStateException(e); }
                });
                feeding.start();
                // Kill only in the middle of work: some results of this round are there, others are not yet.
                out.waitFor(before + 1 + chance.nextInt(40), 120);
                if (what != 1) { app.destroyForcibly().waitFor(); appKills++; }
                if (what != 0) { broker.destroyForcibly().waitFor(); brokerKills++; broker = run(dir + "/broker.log", true, brokerCommand); }
                if (what != 1) app = run(dir + "/app.log", false, appCommand);
                feeding.join();
                System.err.println("round " + round + ": fed " + m.next + ", read " + out.seen);
            }
            out.waitFor(m.outputs(), 300);
            app.destroy();
            app.waitFor();
            out.toTheEnds();
            List<String> wrong = out.against(m);
            out.c.close();
            say("application killed " + appKills + " times, broker killed " + brokerKills + " times, " + m.next + " rounds of input, " + m.outputs() + " results: "
                + (wrong.isEmpty() ? "as the model says" : "WRONG"));
            wrong.forEach(w -> say(w));
            if (!wrong.isEmpty()) throw new IllegalStateException("the output is not the model's (seed " + seed + ")");
        } finally {
            if (app != null) app.destroyForcibly();
            broker.destroyForcibly();
        }
    }

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "compare" -> { bootstrap = args[1]; compare(args[2]); System.exit(0); }
            case "app" -> {
                bootstrap = args[1];
                KafkaStreams streams = application(args[2], 5);
                Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(30))));
                streams.start();
            }
            default -> {
                bootstrap = "127.0.0.1:" + args[3];
                List<String> app = List.of("java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", System.getProperty("java.class.path"),
                    System.getProperty("streams.source"), "app", bootstrap, args[2] + "/state");
                kill(Integer.parseInt(args[1]), args[2], Long.parseLong(args[4]), List.of(args).subList(5, args.length), app);
                System.exit(0);
            }
        }
    }
}
