// Apache Kafka's Java clients against a broker: java -cp 'lib/*' Conformance.java HOST:PORT.
// Prints what a user observes, the same on every broker.

import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;

public class Conformance {
    static String bootstrap;
    /** Record timestamps, in milliseconds: recent, or retention would take the records away. */
    static final long T = System.currentTimeMillis() - 60_000;

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

    /** The topics of this program, as soon as the expected ones are known to the broker: Kafka answers before they are. */
    static List<String> listed(Admin admin, List<String> expected) throws Exception {
        List<String> names = List.of();
        for (int tries = 0; tries < 100 && !names.containsAll(expected); tries++) {
            Thread.sleep(tries == 0 ? 0 : 50);
            names = new TreeSet<>(admin.listTopics().names().get()).stream().filter(n -> n.startsWith("jv-")).toList();
        }
        return names;
    }

    static Map<String, Object> with(Object... settings) {
        Map<String, Object> all = new HashMap<>();
        all.put("bootstrap.servers", bootstrap);
        for (int i = 0; i < settings.length; i += 2) all.put((String) settings[i], settings[i + 1]);
        return all;
    }

    static KafkaProducer<String, byte[]> producer(Object... settings) {
        return new KafkaProducer<>(with(settings), new StringSerializer(), new ByteArraySerializer());
    }

    static KafkaConsumer<String, byte[]> consumer(Object... settings) {
        Map<String, Object> all = with(settings);
        all.put("auto.offset.reset", "none");
        all.put("enable.auto.commit", false);
        return new KafkaConsumer<>(all, new StringDeserializer(), new ByteArrayDeserializer());
    }

    static List<ConsumerRecord<String, byte[]>> read(TopicPartition tp, long from, long end, Object... settings) {
        try (KafkaConsumer<String, byte[]> c = consumer(settings)) {
            c.assign(List.of(tp));
            c.seek(tp, from);
            List<ConsumerRecord<String, byte[]>> all = new ArrayList<>();
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
            while (c.position(tp) < end) {
                if (System.nanoTime() > deadline) throw new IllegalStateException("no end of " + tp + " within a minute");
                c.poll(Duration.ofMillis(200)).forEach(all::add);
            }
            return all;
        }
    }

    static String digest(byte[] b) { return b == null ? "null" : b.length + ":" + Arrays.hashCode(b); }

    static void topics(Admin admin) {
        attempt("create", () -> admin.createTopics(List.of(new NewTopic("jv-a", 3, (short) 1), new NewTopic("jv-b", 1, (short) 1))).all().get());
        attempt("create by default", () -> admin.createTopics(List.of(new NewTopic("jv-default", Optional.empty(), Optional.empty()))).numPartitions("jv-default").get());
        attempt("create assigned", () -> admin.createTopics(List.of(new NewTopic("jv-assigned", Map.of(0, List.of(1), 1, List.of(1))))).all().get());
        attempt("create badly assigned", () -> admin.createTopics(List.of(new NewTopic("jv-bad", Map.of(0, List.of(77))))).all().get());
        attempt("create with a gap", () -> admin.createTopics(List.of(new NewTopic("jv-gap", Map.of(1, List.of(1))))).all().get());
        attempt("create again", () -> admin.createTopics(List.of(new NewTopic("jv-a", 3, (short) 1))).all().get());
        attempt("create nothing", () -> admin.createTopics(List.of(new NewTopic("jv-z", 0, (short) 1))).all().get());
        attempt("create invalid", () -> admin.createTopics(List.of(new NewTopic("a/b", 1, (short) 1))).all().get());
        attempt("validate", () -> admin.createTopics(List.of(new NewTopic("jv-v", 1, (short) 1)), new CreateTopicsOptions().validateOnly(true)).all().get());
        attempt("list", () -> listed(admin, List.of("jv-a", "jv-assigned", "jv-b", "jv-default")));
        attempt("describe", () -> {
            TopicDescription d = admin.describeTopics(List.of("jv-a")).allTopicNames().get().get("jv-a");
            return d.partitions().stream().map(p -> p.partition() + "/" + p.replicas().size() + "/" + p.isr().size()).toList();
        });
        attempt("describe by id", () -> {
            Uuid id = admin.describeTopics(List.of("jv-a")).allTopicNames().get().get("jv-a").topicId();
            return admin.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds().get().get(id).name();
        });
        attempt("describe by unknown id", () -> admin.describeTopics(TopicCollection.ofTopicIds(List.of(new Uuid(1, 2)))).allTopicIds().get());
        attempt("describe missing", () -> admin.describeTopics(List.of("jv-nowhere")).allTopicNames().get());
    }

    static void produce(String codec, String acks, boolean idempotent) throws Exception {
        try (var p = producer("compression.type", codec, "acks", acks, "enable.idempotence", idempotent, "linger.ms", 5)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < 200; i++) sent.add(p.send(new ProducerRecord<>("jv-b", 0, codec + i, ("value " + i).repeat(10).getBytes())));
            p.flush();
            long last = sent.get(199).get().offset();
            say("sent", codec, acks, idempotent, acks.equals("0") ? "" : last);
        }
    }

    static void records() throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            produce(codec, "all", true);
            produce(codec, "1", false);
            produce(codec, "0", false);
            produce(codec, "all", false);
        }
        TopicPartition b = new TopicPartition("jv-b", 0);
        var all = read(b, 0, 4000);
        say("read", all.size(), "in order", IntStream.range(0, all.size()).allMatch(i -> all.get(i).offset() == i));
        say("from the middle", read(b, 1234, 4000).get(0).offset());
        say("small fetches", read(b, 0, 4000, "max.partition.fetch.bytes", 1000, "fetch.max.bytes", 1000, "max.poll.records", 7).size());
        TopicPartition a = new TopicPartition("jv-a", 1);
        try (var p = producer()) {
            p.send(new ProducerRecord<>("jv-a", 1, T + 1000, "k", "v".getBytes(), List.of(new RecordHeader("h", new byte[] {1}), new RecordHeader("n", (byte[]) null)))).get();
            p.send(new ProducerRecord<>("jv-a", 1, (Long) (T + 5000), "gone", (byte[]) null)).get();
            p.send(new ProducerRecord<>("jv-a", 1, T + 3000, null, new byte[0])).get();
        }
        for (var r : read(a, 0, 3)) {
            say(r.offset(), r.key(), digest(r.value()), r.timestamp() - T, r.timestampType(), Arrays.stream(r.headers().toArray()).map(h -> h.key() + "=" + digest(h.value())).toList(), r.leaderEpoch().isPresent());
        }
        try (var p = producer("max.request.size", 3_000_000, "buffer.memory", 64 << 20)) {
            attempt("large", () -> p.send(new ProducerRecord<>("jv-a", 2, "L", new byte[900_000])).get().offset());
            attempt("too large", () -> p.send(new ProducerRecord<>("jv-a", 2, "L", new byte[2_000_000])).get().offset());
            attempt("large again", () -> p.send(new ProducerRecord<>("jv-a", 2, "L", new byte[900_000])).get().offset());
        }
        say("large read", read(new TopicPartition("jv-a", 2), 0, 2, "max.partition.fetch.bytes", 100).stream().map(r -> r.value().length).toList());
        try (var p = producer("max.block.ms", 3000)) {
            attempt("no such partition", () -> p.send(new ProducerRecord<>("jv-a", 50, "x", new byte[1])).get());
            attempt("invalid topic", () -> p.send(new ProducerRecord<>("a b", 0, "x", new byte[1])).get());
            attempt("made on the way", () -> p.send(new ProducerRecord<>("jv-auto", 0, "x", new byte[1])).get().offset());
        }
    }

    static void offsets(Admin admin) {
        TopicPartition a = new TopicPartition("jv-a", 1);
        try (var c = consumer()) {
            attempt("beginning", () -> c.beginningOffsets(List.of(a)).get(a));
            attempt("end", () -> c.endOffsets(List.of(a)).get(a));
            attempt("time", () -> c.offsetsForTimes(Map.of(a, T + 2000)).get(a).offset());
            attempt("future", () -> String.valueOf(c.offsetsForTimes(Map.of(a, T + 900_000_000)).get(a)));
            attempt("partitions", () -> c.partitionsFor("jv-a").size());
            attempt("out of range", () -> {
                c.assign(List.of(a));
                c.seek(a, 999);
                for (int i = 0; i < 100; i++) c.poll(Duration.ofMillis(100));
                return "nothing";
            });
        }
        for (var spec : List.of(OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.maxTimestamp(), OffsetSpec.forTimestamp(T + 2000))) {
            attempt("offset " + spec.getClass().getSimpleName(), () -> {
                var o = admin.listOffsets(Map.of(a, spec)).all().get().get(a);
                return o.offset() + " " + (o.timestamp() < 0 ? o.timestamp() : o.timestamp() - T) + " " + o.leaderEpoch();
            });
        }
        attempt("offset of nothing", () -> admin.listOffsets(Map.of(new TopicPartition("jv-a", 99), OffsetSpec.latest()), new ListOffsetsOptions().timeoutMs(3000)).all().get());
        attempt("producers", () -> admin.describeProducers(List.of(new TopicPartition("jv-b", 0))).all().get().get(new TopicPartition("jv-b", 0)).activeProducers().size() > 0);
    }

    static String value(Admin admin, ConfigResource r, String key) throws Exception {
        ConfigEntry e = admin.describeConfigs(List.of(r)).all().get().get(r).get(key);
        return e.value() + " " + e.source() + " " + e.isReadOnly() + " " + e.type();
    }

    /** What is described once it is no longer this: Kafka answers an alteration before every describe knows it. */
    static String changed(Admin admin, ConfigResource r, String key, String from) throws Exception {
        String now = value(admin, r, key);
        for (long end = System.nanoTime() + 30_000_000_000L; now.equals(from) && System.nanoTime() < end; now = value(admin, r, key)) {
            Thread.sleep(20);
        }
        return now;
    }

    static void configs(Admin admin) throws Exception {
        ConfigResource t = new ConfigResource(ConfigResource.Type.TOPIC, "jv-a");
        for (String key : List.of("segment.bytes", "segment.ms", "max.message.bytes", "message.timestamp.type", "flush.messages", "flush.ms", "index.interval.bytes")) {
            attempt("config " + key, () -> value(admin, t, key));
        }
        String first = value(admin, t, "segment.bytes");
        attempt("alter", () -> admin.incrementalAlterConfigs(Map.of(t, List.of(new AlterConfigOp(new ConfigEntry("segment.bytes", "3145728"), AlterConfigOp.OpType.SET)))).all().get());
        attempt("config segment.bytes", () -> changed(admin, t, "segment.bytes", first));
        String altered = value(admin, t, "segment.bytes");
        attempt("reset", () -> admin.incrementalAlterConfigs(Map.of(t, List.of(new AlterConfigOp(new ConfigEntry("segment.bytes", null), AlterConfigOp.OpType.DELETE)))).all().get());
        attempt("config segment.bytes", () -> changed(admin, t, "segment.bytes", altered));
        attempt("unknown key", () -> admin.incrementalAlterConfigs(Map.of(t, List.of(new AlterConfigOp(new ConfigEntry("no.such.key", "1"), AlterConfigOp.OpType.SET)))).all().get());
        attempt("bad value", () -> admin.incrementalAlterConfigs(Map.of(t, List.of(new AlterConfigOp(new ConfigEntry("segment.bytes", "many"), AlterConfigOp.OpType.SET)))).all().get());
        attempt("append to a number", () -> admin.incrementalAlterConfigs(Map.of(t, List.of(new AlterConfigOp(new ConfigEntry("segment.bytes", "1"), AlterConfigOp.OpType.APPEND)))).all().get());
        attempt("unknown topic", () -> admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.TOPIC, "jv-nowhere"), List.of(new AlterConfigOp(new ConfigEntry("segment.bytes", "3145728"), AlterConfigOp.OpType.SET)))).all().get());
        attempt("log append time", () -> admin.incrementalAlterConfigs(Map.of(t, List.of(new AlterConfigOp(new ConfigEntry("message.timestamp.type", "LogAppendTime"), AlterConfigOp.OpType.SET)))).all().get());
        attempt("in force", () -> changed(admin, t, "message.timestamp.type", "CreateTime DEFAULT_CONFIG false STRING"));
        attempt("stamped", () -> {
            try (var p = producer()) {
                RecordMetadata m = p.send(new ProducerRecord<>("jv-a", 0, 5L, "k", new byte[1])).get();
                var r = read(new TopicPartition("jv-a", 0), 0, 1).get(0);
                return r.timestampType() + " " + (r.timestamp() > T) + " " + (m.timestamp() == r.timestamp());
            }
        });
        attempt("broker listener", () -> {
            ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, "1");
            ConfigEntry e = admin.describeConfigs(List.of(broker)).all().get().get(broker).get("num.partitions");
            return e.value() + " " + e.source();
        });
    }

    static void cluster(Admin admin) {
        attempt("cluster", () -> admin.describeCluster().nodes().get().size() + " " + (admin.describeCluster().controller().get() != null) + " " + admin.describeCluster().clusterId().get().length());
        attempt("log dirs", () -> {
            var dirs = admin.describeLogDirs(List.of(1)).allDescriptions().get().get(1);
            return dirs.size() + " " + dirs.values().iterator().next().replicaInfos().keySet().stream().filter(p -> p.topic().equals("jv-a")).count();
        });
        attempt("config resources", () -> admin.listConfigResources(Set.of(ConfigResource.Type.BROKER), new ListConfigResourcesOptions()).all().get().size());
        attempt("grow", () -> admin.createPartitions(Map.of("jv-b", NewPartitions.increaseTo(3))).all().get());
        attempt("shrink", () -> admin.createPartitions(Map.of("jv-b", NewPartitions.increaseTo(2))).all().get());
        attempt("grow missing", () -> admin.createPartitions(Map.of("jv-nowhere", NewPartitions.increaseTo(2))).all().get());
        attempt("delete", () -> admin.deleteTopics(List.of("jv-b")).all().get());
        attempt("delete by id", () -> {
            Uuid id = admin.describeTopics(List.of("jv-assigned")).allTopicNames().get().get("jv-assigned").topicId();
            return admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all().get();
        });
        attempt("delete missing", () -> admin.deleteTopics(List.of("jv-nowhere")).all().get());
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        try (Admin admin = Admin.create(with("client.id", "conformance"))) {
            topics(admin);
            records();
            offsets(admin);
            configs(admin);
            cluster(admin);
        }
    }
}
