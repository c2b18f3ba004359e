// How fast transactions of Apache Kafka's Java producer are: java -cp 'lib/*' TransactionSpeed.java HOST:PORT BROKER_PID ROUNDS SECONDS.
// One JSON line: the time of begin, one record of 1 KiB, commit, of one producer; and the commits of 32 producers for each second of the broker's CPU.

import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.serialization.*;

public class TransactionSpeed {
    static String bootstrap;

    static KafkaProducer<byte[], byte[]> producer(String id) {
        return new KafkaProducer<>(Map.of("bootstrap.servers", bootstrap, "transactional.id", id, "linger.ms", 0), new ByteArraySerializer(), new ByteArraySerializer());
    }

    static void one(KafkaProducer<byte[], byte[]> p, String topic, int partition, byte[] value) {
        p.beginTransaction();
        p.send(new ProducerRecord<>(topic, partition, null, value));
        p.commitTransaction();
    }

    /** Seconds of CPU that a process has had. */
    static double cpu(long pid) throws Exception {
        String stat = Files.readString(Path.of("/proc/" + pid + "/stat"));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        return (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) / 100.0;
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        long pid = Long.parseLong(args[1]);
        int rounds = Integer.parseInt(args[2]), seconds = Integer.parseInt(args[3]), producers = 32;
        byte[] value = new byte[1024];
        new Random(1).nextBytes(value);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic("speed-one", 1, (short) 1), new NewTopic("speed-many", producers, (short) 1))).all().get();
        }
        double[] ms = new double[rounds];
        try (KafkaProducer<byte[], byte[]> p = producer("speed-one")) {
            p.initTransactions();
            for (int i = 0; i < rounds / 2; i++) one(p, "speed-one", 0, value);
            for (int i = 0; i < rounds; i++) {
                long began = System.nanoTime();
                one(p, "speed-one", 0, value);
                ms[i] = (System.nanoTime() - began) / 1e6;
            }
        }
        Arrays.sort(ms);
        ExecutorService pool = Executors.newFixedThreadPool(producers);
        CyclicBarrier ready = new CyclicBarrier(producers + 1);
        AtomicBoolean counts = new AtomicBoolean(), ends = new AtomicBoolean();
        LongAdder commits = new LongAdder();
        List<Future<?>> all = new ArrayList<>();
        for (int n = 0; n < producers; n++) {
            int partition = n;
            all.add(pool.submit(() -> {
                try (KafkaProducer<byte[], byte[]> p = producer("speed-" + partition)) {
                    p.initTransactions();
                    for (int i = 0; i < 20; i++) one(p, "speed-many", partition, value);
                    ready.await();
                    while (!ends.get()) {
                        one(p, "speed-many", partition, value);
                        if (counts.get()) commits.increment();
                    }
                } catch (Exception e) {
                    // The others would wait for it at the barrier.
                    e.printStackTrace();
                    System.exit(1);
                }
                return null;
            }));
        }
        ready.await();
        Thread.sleep(2_000);
        double before = cpu(pid);
        long began = System.nanoTime();
        counts.set(true);
        Thread.sleep(seconds * 1_000L);
        counts.set(false);
        double took = (System.nanoTime() - began) / 1e9, used = cpu(pid) - before;
        ends.set(true);
        for (Future<?> f : all) f.get();
        pool.shutdown();
        System.out.printf(Locale.ROOT, "{\"p50_ms\": %.2f, \"p99_ms\": %.2f, \"commits_per_s\": %.0f, \"broker_cpu\": %.2f, \"commits_per_cpu_s\": %.0f}%n",
            ms[rounds / 2], ms[rounds * 99 / 100], commits.sum() / took, used / took, commits.sum() / used);
    }
}
