// sarama against a broker: sarama HOST:PORT. Prints what a user observes, the same on every broker.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func outcome(err error) string {
	var topic *sarama.TopicError
	var partition *sarama.TopicPartitionError
	var kerr sarama.KError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &topic):
		return fmt.Sprint("error ", int16(topic.Err))
	case errors.As(err, &partition):
		return fmt.Sprint("error ", int16(partition.Err))
	case errors.As(err, &kerr):
		return fmt.Sprint("error ", int16(kerr))
	}
	return err.Error()
}

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V3_6_0_0
	c.Producer.Return.Successes = true
	c.Producer.Partitioner = sarama.NewManualPartitioner
	return c
}

func produce(brokers []string, c *sarama.Config, topic string, count int, size int) {
	p, err := sarama.NewSyncProducer(brokers, c)
	must(err)
	var messages []*sarama.ProducerMessage
	for i := 0; i < count; i++ {
		messages = append(messages, &sarama.ProducerMessage{
			Topic: topic, Key: sarama.StringEncoder(fmt.Sprint("k", i)), Value: sarama.StringEncoder(strings.Repeat("v", size)),
			Headers: []sarama.RecordHeader{{Key: []byte("h"), Value: []byte(fmt.Sprint(i))}},
		})
	}
	err = p.SendMessages(messages)
	fmt.Println("sent", topic, c.Producer.Compression, c.Producer.RequiredAcks, outcome(err), messages[count-1].Offset)
	must(p.Close())
}

func consume(brokers []string, topic string, from int64, count int) {
	c, err := sarama.NewConsumer(brokers, config())
	must(err)
	pc, err := c.ConsumePartition(topic, 0, from)
	if err != nil {
		fmt.Println("consume", topic, from, outcome(err))
		return
	}
	bytes, next, ordered := 0, int64(-1), true
	timeout := time.After(60 * time.Second)
	for i := 0; i < count; i++ {
		select {
		case m := <-pc.Messages():
			ordered = ordered && (next == -1 || m.Offset == next)
			next = m.Offset + 1
			bytes += len(m.Value)
		case <-timeout:
			log.Fatalf("%d of %d records of %s within a minute", i, count, topic)
		}
	}
	fmt.Println("consumed", topic, count, bytes, "to", next, "in order", ordered)
	must(pc.Close())
	must(c.Close())
}

func main() {
	if len(os.Args) > 2 && os.Args[2] == "groups" {
		groups([]string{os.Args[1]})
		return
	}
	if len(os.Args) > 2 && os.Args[2] == "transactions" {
		transactions([]string{os.Args[1]})
		return
	}
	brokers := []string{os.Args[1]}
	admin, err := sarama.NewClusterAdmin(brokers, config())
	must(err)
	detail := &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}
	fmt.Println("create", outcome(admin.CreateTopic("sa-a", detail, false)))
	fmt.Println("create again", outcome(admin.CreateTopic("sa-a", detail, false)))
	fmt.Println("create invalid", outcome(admin.CreateTopic("..", detail, false)))
	fmt.Println("validate only", outcome(admin.CreateTopic("sa-v", detail, true)))
	total := 0
	for _, codec := range []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD} {
		for _, acks := range []sarama.RequiredAcks{sarama.WaitForLocal, sarama.WaitForAll} {
			c := config()
			c.Producer.Compression, c.Producer.RequiredAcks = codec, acks
			produce(brokers, c, "sa-a", 100, 200)
			total += 100
		}
	}
	c := config()
	c.Producer.Idempotent, c.Producer.RequiredAcks, c.Net.MaxOpenRequests = true, sarama.WaitForAll, 1
	produce(brokers, c, "sa-a", 500, 10)
	total += 500
	consume(brokers, "sa-a", sarama.OffsetOldest, total)
	consume(brokers, "sa-a", 1400, 100)
	consume(brokers, "sa-a", 99999, 1)

	client, err := sarama.NewClient(brokers, config())
	must(err)
	newest, err := client.GetOffset("sa-a", 0, sarama.OffsetNewest)
	must(err)
	oldest, err := client.GetOffset("sa-a", 0, sarama.OffsetOldest)
	must(err)
	first, err := client.GetOffset("sa-a", 0, 1)
	must(err)
	fmt.Println("offsets", oldest, newest, first)
	must(client.Close())

	entries, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: "sa-a", ConfigNames: []string{"max.message.bytes", "segment.bytes"}})
	must(err)
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name })
	for _, e := range entries {
		fmt.Println("config", e.Name, e.Value, e.ReadOnly, e.Default)
	}
	value := "4096"
	change := map[string]sarama.IncrementalAlterConfigsEntry{"max.message.bytes": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}}
	fmt.Println("alter", outcome(admin.IncrementalAlterConfig(sarama.TopicResource, "sa-a", change, false)))
	fmt.Println("grow", outcome(admin.CreatePartitions("sa-a", 3, nil, false)))
	fmt.Println("shrink", outcome(admin.CreatePartitions("sa-a", 2, nil, false)))
	described, err := admin.DescribeTopics([]string{"sa-a", "sa-nowhere"})
	must(err)
	for _, t := range described {
		fmt.Println("topic", t.Name, len(t.Partitions), int16(t.Err))
	}
	nodes, controller, err := admin.DescribeCluster()
	must(err)
	fmt.Println("cluster", len(nodes), controller == nodes[0].ID())
	fmt.Println("delete", outcome(admin.DeleteTopic("sa-a")))
	fmt.Println("delete missing", outcome(admin.DeleteTopic("sa-nowhere")))
	must(admin.Close())
}
