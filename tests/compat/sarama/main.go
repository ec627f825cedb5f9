// Sarama in groups; see "In a group" in tests/compat/README.md.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

func main() {
	bootstrap, act := os.Args[1], write
	if os.Args[2] == "member" {
		act = member
	}
	if err := act(bootstrap, os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func configured() *sarama.Config {
	config := sarama.NewConfig()
	config.ClientID = "compat"
	config.Version = sarama.MaxVersion
	return config
}

func write(bootstrap string, arguments []string) error {
	topic := arguments[0]
	partitions, _ := strconv.Atoi(arguments[1])
	each, _ := strconv.Atoi(arguments[2])
	config := configured()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	config.Producer.Return.Successes = true
	config.Producer.Compression = sarama.CompressionZSTD
	config.Producer.Partitioner = sarama.NewManualPartitioner
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	for range each {
		for partition := range partitions {
			message := sarama.ProducerMessage{Topic: topic, Partition: int32(partition), Value: sarama.StringEncoder("value")}
			if _, _, err := producer.SendMessage(&message); err != nil {
				return err
			}
		}
	}
	return producer.Close()
}

// handler reads the claims of one session after the other.
type handler struct {
	sync.Mutex
	session sarama.ConsumerGroupSession
	restart context.CancelFunc
	waits   bool
}

func (h *handler) Setup(session sarama.ConsumerGroupSession) error {
	h.Lock()
	defer h.Unlock()
	h.session = session
	return nil
}

func (h *handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, isOpen := <-claim.Messages():
			if !isOpen {
				return nil
			}
			fmt.Printf("record %s %d %d\n", message.Topic, message.Partition, message.Offset)
			session.MarkMessage(message, "")
			h.Lock()
			waits := h.waits
			h.Unlock()
			if waits {
				session.Commit()
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

// seek goes the only way that sarama has: the session is told where its claims are to go on, and ends.
func (h *handler) seek(offset int64) {
	h.Lock()
	defer h.Unlock()
	for topic, partitions := range h.session.Claims() {
		for _, partition := range partitions {
			h.session.ResetOffset(topic, partition, offset, "")
		}
	}
	h.session.Commit()
	h.restart()
}

func member(bootstrap string, arguments []string) error {
	group, topic, assignor := arguments[0], arguments[1], arguments[2]
	config := configured()
	strategy := sarama.NewBalanceStrategyRange()
	if assignor == "cooperative-sticky" {
		strategy = sarama.NewBalanceStrategyCooperativeSticky()
	}
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategy}
	config.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	config.Consumer.Group.Session.Timeout = 6 * time.Second
	config.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Interval = 100 * time.Millisecond
	config.Metadata.RefreshFrequency = time.Second
	// Fetches and commits share a connection: a commit waits for the fetch before it.
	config.Consumer.MaxWaitTime = 20 * time.Millisecond
	if len(arguments) > 3 {
		config.Consumer.Group.InstanceId = arguments[3]
	}
	consumer, err := sarama.NewConsumerGroup([]string{bootstrap}, group, config)
	if err != nil {
		return err
	}
	reader := &handler{waits: true}
	life, end := context.WithCancel(context.Background())
	go func() {
		defer end()
		input := bufio.NewScanner(os.Stdin)
		for input.Scan() {
			word, argument, _ := strings.Cut(input.Text(), " ")
			switch word {
			case "async":
				reader.Lock()
				reader.waits = false
				reader.Unlock()
			case "pause":
				consumer.PauseAll()
			case "resume":
				consumer.ResumeAll()
			case "seek":
				offset, _ := strconv.ParseInt(argument, 10, 64)
				reader.seek(offset)
			}
			fmt.Println("done")
		}
	}()
	for life.Err() == nil {
		ctx, restart := context.WithCancel(life)
		reader.Lock()
		reader.restart = restart
		reader.Unlock()
		if err := consumer.Consume(ctx, []string{topic}, reader); err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "consume:", err)
		}
		restart()
	}
	return consumer.Close()
}
