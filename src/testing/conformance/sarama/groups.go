package main

import (
	"context"
	"fmt"
	"log"
	"sort"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// member of a group: what it owns now, and what all members have read.
type member struct {
	group sarama.ConsumerGroup
	stop  context.CancelFunc
	done  chan struct{}
	read  *sync.Map

	lock  sync.Mutex
	parts []int32
}

func (m *member) Setup(s sarama.ConsumerGroupSession) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.parts = append([]int32{}, s.Claims()["cg-sarama"]...)
	return nil
}

func (m *member) Cleanup(sarama.ConsumerGroupSession) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.parts = nil
	return nil
}

func (m *member) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		m.read.Store(fmt.Sprint(message.Partition, " ", message.Offset), true)
		s.MarkMessage(message, "")
	}
	s.Commit()
	return nil
}

func (m *member) count() int {
	m.lock.Lock()
	defer m.lock.Unlock()
	return len(m.parts)
}

func (m *member) leave() {
	m.stop()
	<-m.done
	must(m.group.Close())
}

func join(brokers []string, c *sarama.Config, read *sync.Map) *member {
	group, err := sarama.NewConsumerGroup(brokers, "sarama-group", c)
	must(err)
	ctx, stop := context.WithCancel(context.Background())
	m := &member{group: group, stop: stop, done: make(chan struct{}), read: read}
	go func() {
		defer close(m.done)
		for ctx.Err() == nil {
			if err := group.Consume(ctx, []string{"cg-sarama"}, m); err != nil && ctx.Err() == nil {
				log.Fatal(err)
			}
		}
	}()
	return m
}

func until(what string, condition func() bool) {
	for i := 0; i < 1200; i++ {
		if condition() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	log.Fatal("waited a minute for ", what)
}

func groups(brokers []string) {
	c := config()
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Group.Session.Timeout = 6 * time.Second
	c.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	admin, err := sarama.NewClusterAdmin(brokers, c)
	must(err)
	must(admin.CreateTopic("cg-sarama", &sarama.TopicDetail{NumPartitions: 4, ReplicationFactor: 1}, false))
	p, err := sarama.NewSyncProducer(brokers, c)
	must(err)
	for i := 0; i < 40; i++ {
		_, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: "cg-sarama", Partition: int32(i % 4), Value: sarama.StringEncoder("v")})
		must(err)
	}
	must(p.Close())
	var read sync.Map
	all := func() int {
		n := 0
		read.Range(func(any, any) bool { n++; return true })
		return n
	}
	one := join(brokers, c, &read)
	until("40 records", func() bool { return all() == 40 })
	fmt.Println("read", all(), "of", one.count(), "partitions")
	two := join(brokers, c, &read)
	until("two halves", func() bool { return one.count() == 2 && two.count() == 2 })
	one.lock.Lock()
	two.lock.Lock()
	parts := append(append([]int32{}, one.parts...), two.parts...)
	two.lock.Unlock()
	one.lock.Unlock()
	sort.Slice(parts, func(i, j int) bool { return parts[i] < parts[j] })
	fmt.Println("share", parts)
	described, err := admin.DescribeConsumerGroups([]string{"sarama-group"})
	must(err)
	fmt.Println(described[0].State, described[0].Protocol, len(described[0].Members))
	two.leave()
	until("all again", func() bool { return one.count() == 4 })
	one.leave()
	offsets, err := admin.ListConsumerGroupOffsets("sarama-group", map[string][]int32{"cg-sarama": {0, 1, 2, 3}})
	must(err)
	for i := int32(0); i < 4; i++ {
		fmt.Println("committed", i, offsets.GetBlock("cg-sarama", i).Offset)
	}
	fmt.Println("delete", outcome(admin.DeleteConsumerGroup("sarama-group")))
	fmt.Println("again", outcome(admin.DeleteConsumerGroup("sarama-group")))
	must(admin.Close())
}
