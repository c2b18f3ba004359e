package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

func transactional(brokers []string, id string) sarama.AsyncProducer {
	c := config()
	c.Producer.Idempotent = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Transaction.ID = id
	c.Producer.Return.Errors = true
	c.Net.MaxOpenRequests = 1
	for i := 0; ; i++ {
		p, err := sarama.NewAsyncProducer(brokers, c)
		// Kafka may still be completing what the producer before had open, for longer than the client asks again.
		if !errors.Is(err, sarama.ErrConcurrentTransactions) || i == 20 {
			must(err)
			return p
		}
	}
}

// inForce waits: Kafka answers that a topic is made before its partitions take records.
func inForce(brokers []string, topic string, partitions int32) {
	client, err := sarama.NewClient(brokers, config())
	must(err)
	for i := int32(0); i < partitions; i++ {
		for try := 0; try < 600; try++ {
			if _, err := client.GetOffset(topic, i, sarama.OffsetNewest); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	must(client.Close())
}

// sendAll sends values to each partition and says what became of them.
func sendAll(p sarama.AsyncProducer, topic string, partitions int32, values ...string) string {
	count := 0
	for _, value := range values {
		for i := int32(0); i < partitions; i++ {
			p.Input() <- &sarama.ProducerMessage{Topic: topic, Partition: i, Value: sarama.StringEncoder(value)}
			count++
		}
	}
	failed := ""
	for i := 0; i < count; i++ {
		select {
		case <-p.Successes():
		case err := <-p.Errors():
			failed = outcome(err.Err)
		case <-time.After(60 * time.Second):
			return "no answer"
		}
	}
	if failed != "" {
		return failed
	}
	return "ok"
}

// readTo reads each partition until the value that is the last one there.
func readTo(brokers []string, topic string, partitions int32, isolation sarama.IsolationLevel, last string) (found [][]string) {
	c := config()
	c.Consumer.IsolationLevel = isolation
	consumer, err := sarama.NewConsumer(brokers, c)
	must(err)
	for i := int32(0); i < partitions; i++ {
		part, err := consumer.ConsumePartition(topic, i, sarama.OffsetOldest)
		must(err)
		values := []string{}
		for len(values) == 0 || values[len(values)-1] != last {
			select {
			case m := <-part.Messages():
				values = append(values, string(m.Value))
			case <-time.After(60 * time.Second):
				return append(found, append(values, "no end"))
			}
		}
		must(part.Close())
		found = append(found, values)
	}
	must(consumer.Close())
	return found
}

func transactions(brokers []string) {
	admin, err := sarama.NewClusterAdmin(brokers, config())
	must(err)
	must(admin.CreateTopic("tsa-in", &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false))
	must(admin.CreateTopic("tsa-out", &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false))
	inForce(brokers, "tsa-out", 2)
	p := transactional(brokers, "tsa-one")
	fmt.Println("begin", outcome(p.BeginTxn()))
	fmt.Println("sent", sendAll(p, "tsa-out", 2, "a", "b"))
	fmt.Println("commit", outcome(p.CommitTxn()))
	must(p.BeginTxn())
	fmt.Println("sent", sendAll(p, "tsa-out", 2, "lost"))
	fmt.Println("abort", outcome(p.AbortTxn()))
	must(p.BeginTxn())
	fmt.Println("empty", outcome(p.CommitTxn()))
	offsets := func(to int64) map[string][]*sarama.PartitionOffsetMetadata {
		return map[string][]*sarama.PartitionOffsetMetadata{"tsa-in": {{Partition: 0, Offset: to}}}
	}
	must(p.BeginTxn())
	fmt.Println("sent", sendAll(p, "tsa-out", 2, "with offsets"))
	fmt.Println("offsets", outcome(p.AddOffsetsToTxn(offsets(7), "tsa-group")))
	fmt.Println("commit", outcome(p.CommitTxn()))
	must(p.BeginTxn())
	fmt.Println("sent", sendAll(p, "tsa-out", 2, "lost with offsets"))
	fmt.Println("offsets", outcome(p.AddOffsetsToTxn(offsets(9), "tsa-group")))
	fmt.Println("abort", outcome(p.AbortTxn()))
	must(p.BeginTxn())
	fmt.Println("sent", sendAll(p, "tsa-out", 2, "zombie"))
	q := transactional(brokers, "tsa-one")
	fmt.Println("zombie sends", sendAll(p, "tsa-out", 2, "late") != "ok")
	fmt.Println("zombie commits", p.CommitTxn() != nil)
	must(q.BeginTxn())
	fmt.Println("sent", sendAll(q, "tsa-out", 2, "successor", "end"))
	fmt.Println("commit", outcome(q.CommitTxn()))
	fmt.Println("committed", readTo(brokers, "tsa-out", 2, sarama.ReadCommitted, "end"))
	fmt.Println("uncommitted", readTo(brokers, "tsa-out", 2, sarama.ReadUncommitted, "end"))
	must(q.BeginTxn())
	fmt.Println("sent", sendAll(q, "tsa-out", 2, "open"))
	fmt.Println("open, committed", readTo(brokers, "tsa-out", 2, sarama.ReadCommitted, "end"))
	fmt.Println("open, uncommitted", readTo(brokers, "tsa-out", 2, sarama.ReadUncommitted, "open"))
	fmt.Println("abort", outcome(q.AbortTxn()))
	// Markers of the last transaction may still be on their way.
	for i := 0; ; i++ {
		found, err := admin.ListConsumerGroupOffsets("tsa-group", map[string][]int32{"tsa-in": {0}})
		must(err)
		if offset := found.Blocks["tsa-in"][0].Offset; offset == 7 || i == 600 {
			fmt.Println("offset", offset)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	must(q.Close())
	must(admin.Close())
}
