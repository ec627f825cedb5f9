// franz-go's part of the compatibility suite; see tests/compat/README.md.
// `franz-go BOOTSTRAP`: a case a line on stdin (JSON), `pass NAME` or `FAIL NAME: why` a line on stdout.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const deadline = 20 * time.Second

type testCase struct {
	Name          string `json:"name"`
	Kind          string `json:"kind"`
	Topic         string `json:"topic"`
	Partitions    int    `json:"partitions"`
	Records       int    `json:"records"`
	BaseTimestamp int64  `json:"base_timestamp"`
	Codec         string `json:"codec"`
	Acks          string `json:"acks"`
	Idempotent    bool   `json:"idempotent"`
	Timestamps    bool   `json:"timestamps"`
}

func main() {
	bootstrap := os.Args[1]
	if len(os.Args) > 2 {
		if err := member(bootstrap, os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var test testCase
		err := json.Unmarshal(input.Bytes(), &test)
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		switch {
		case err != nil:
		case test.Kind == "admin":
			err = admin(ctx, bootstrap, &test)
		case test.Kind == "produce":
			if err = produce(ctx, bootstrap, &test); err == nil {
				err = verify(ctx, bootstrap, &test)
			}
		default:
			err = verify(ctx, bootstrap, &test)
		}
		cancel()
		if err != nil {
			fmt.Printf("FAIL %s: %v\n", test.Name, err)
		} else {
			fmt.Printf("pass %s\n", test.Name)
		}
	}
}

// A member of a group (groups.py): see "In a group" in tests/compat/README.md.
func member(bootstrap string, arguments []string) error {
	group, topic, assignor := arguments[0], arguments[1], arguments[2]
	options := []kgo.Opt{
		kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.SessionTimeout(6 * time.Second),
		kgo.HeartbeatInterval(500 * time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(100 * time.Millisecond),
	}
	switch assignor {
	case "cooperative-sticky":
		options = append(options, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	case "consumer":
		options = append(options, kgo.Balancers(kgo.RangeBalancer()), kgo.ServerSideBalancer())
	default:
		options = append(options, kgo.Balancers(kgo.RangeBalancer()))
	}
	if topic[0] == '^' {
		options = append(options, kgo.ConsumeRegex())
	}
	if len(arguments) > 3 {
		options = append(options, kgo.InstanceID(arguments[3]))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	commands := make(chan string, 16)
	go func() {
		input := bufio.NewScanner(os.Stdin)
		for input.Scan() {
			commands <- input.Text()
		}
		cancel()
	}()
	uncommitted, waits := false, true
	for ctx.Err() == nil {
		select {
		case command := <-commands:
			word, argument, _ := strings.Cut(command, " ")
			switch word {
			case "async":
				waits = false
			case "pause":
				client.PauseFetchTopics(client.GetConsumeTopics()...)
			case "resume":
				client.ResumeFetchTopics(client.GetConsumeTopics()...)
			case "seek":
				offset, err := strconv.ParseInt(argument, 10, 64)
				if err != nil {
					return err
				}
				to := map[string]map[int32]kgo.EpochOffset{topic: {}}
				for partition := range client.CommittedOffsets()[topic] {
					to[topic][partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
				}
				client.SetOffsets(to)
			}
			fmt.Println("done")
		default:
		}
		polling, enough := context.WithTimeout(ctx, 200*time.Millisecond)
		fetches := client.PollFetches(polling)
		enough()
		fetches.EachRecord(func(record *kgo.Record) {
			fmt.Printf("record %s %d %d\n", record.Topic, record.Partition, record.Offset)
		})
		if uncommitted = uncommitted || fetches.NumRecords() > 0; uncommitted {
			if !waits {
				client.CommitOffsets(context.Background(), client.UncommittedOffsets(), nil)
				uncommitted = false
			} else if err := client.CommitUncommittedOffsets(context.Background()); err != nil {
				fmt.Println("uncommitted", err)
			} else {
				uncommitted = false
			}
		}
		client.AllowRebalance()
	}
	client.CloseAllowingRebalance()
	return nil
}

func key(i int) []byte {
	if i%7 == 3 && i%11 != 5 {
		return nil
	}
	return fmt.Appendf(nil, "key-%d", i)
}

func value(i int) []byte {
	if i%11 == 5 {
		return nil
	}
	value := make([]byte, 1+i*37%900)
	for k := range value {
		if b := byte(i*31 + k*7); b != 10 && b != 31 {
			value[k] = b
		}
	}
	return value
}

func headers(partition int) (headers []kgo.RecordHeader) {
	if partition%3 > 0 {
		headers = append(headers, kgo.RecordHeader{Key: "h0", Value: fmt.Appendf(nil, "v%d", partition)})
	}
	if partition%3 > 1 {
		headers = append(headers, kgo.RecordHeader{Key: "h1", Value: []byte{0xff, byte('a' + partition)}})
	}
	return headers
}

func codec(name string) kgo.CompressionCodec {
	return map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}[name]
}

func produce(ctx context.Context, bootstrap string, test *testCase) error {
	acks := map[string]kgo.Acks{"0": kgo.NoAck(), "1": kgo.LeaderAck(), "all": kgo.AllISRAcks()}[test.Acks]
	options := []kgo.Opt{
		kgo.SeedBrokers(bootstrap), kgo.RequiredAcks(acks), kgo.ProducerBatchCompression(codec(test.Codec)),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(20 * time.Millisecond),
	}
	if !test.Idempotent {
		options = append(options, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	records := make([]*kgo.Record, test.Records)
	for i := range records {
		records[i] = &kgo.Record{
			Topic: test.Topic, Partition: int32(i % test.Partitions), Key: key(i), Value: value(i),
			Headers: headers(i % test.Partitions), Timestamp: time.UnixMilli(test.BaseTimestamp + int64(i)*10),
		}
	}
	for i, result := range client.ProduceSync(ctx, records...) {
		if result.Err != nil {
			return result.Err
		}
		if j := int(records[i].Partition); test.Acks != "0" && result.Record.Offset >= int64(test.Records/test.Partitions) {
			return fmt.Errorf("partition %d acknowledged offset %d", j, result.Record.Offset)
		}
	}
	return nil
}

func compare(test *testCase, record *kgo.Record, expectedOffset int64) error {
	i := int(expectedOffset)*test.Partitions + int(record.Partition)
	where := fmt.Sprintf("partition %d offset %d: ", record.Partition, expectedOffset)
	same := func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
	wanted := headers(int(record.Partition))
	switch {
	case record.Offset != expectedOffset:
		return fmt.Errorf("%sgot offset %d", where, record.Offset)
	case !same(record.Key, key(i)):
		return errors.New(where + "key differs")
	case !same(record.Value, value(i)):
		return errors.New(where + "value differs")
	case test.Timestamps && record.Timestamp.UnixMilli() != test.BaseTimestamp+int64(i)*10:
		return fmt.Errorf("%stimestamp %v", where, record.Timestamp)
	case len(wanted) != len(record.Headers):
		return fmt.Errorf("%s%d headers", where, len(record.Headers))
	}
	for h := range wanted {
		if wanted[h].Key != record.Headers[h].Key || !same(wanted[h].Value, record.Headers[h].Value) {
			return fmt.Errorf("%sheader %d differs", where, h)
		}
	}
	return nil
}

func verify(ctx context.Context, bootstrap string, test *testCase) error {
	from := map[int32]kgo.Offset{}
	for p := range test.Partitions {
		from[int32(p)] = kgo.NewOffset().AtStart()
	}
	timestamps := make([][]int64, test.Partitions)
	err := consume(ctx, bootstrap, test, from, test.Records, func(record *kgo.Record) error {
		seen := &timestamps[record.Partition]
		err := compare(test, record, int64(len(*seen)))
		*seen = append(*seen, record.Timestamp.UnixMilli())
		return err
	})
	if err != nil {
		return err
	}
	if err := ends(ctx, bootstrap, test, timestamps); err != nil {
		return err
	}
	return byTimestamp(ctx, bootstrap, test, timestamps)
}

// consume reads `count` records from the given places, in each partition's order.
func consume(ctx context.Context, bootstrap string, test *testCase, from map[int32]kgo.Offset, count int, each func(*kgo.Record) error) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.FetchMaxWait(10*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{test.Topic: from}))
	if err != nil {
		return err
	}
	defer client.Close()
	for read := 0; read < count; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read only %d of %d records: %w", read, count, err)
		}
		for _, record := range fetches.Records() {
			if err := each(record); err != nil {
				return err
			}
			read++
		}
	}
	return nil
}

func ends(ctx context.Context, bootstrap string, test *testCase, timestamps [][]int64) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		return err
	}
	defer client.Close()
	administrator := kadm.NewClient(client)
	starts, err := administrator.ListStartOffsets(ctx, test.Topic)
	if err != nil {
		return err
	}
	ends, err := administrator.ListEndOffsets(ctx, test.Topic)
	if err != nil {
		return err
	}
	if len(ends[test.Topic]) != test.Partitions {
		return fmt.Errorf("%d partitions", len(ends[test.Topic]))
	}
	for p := range test.Partitions {
		start, end := starts[test.Topic][int32(p)], ends[test.Topic][int32(p)]
		if start.Err != nil || end.Err != nil || start.Offset != 0 || end.Offset != int64(len(timestamps[p])) {
			return fmt.Errorf("partition %d goes from %v to %v", p, start, end)
		}
	}
	last := len(timestamps[0]) - 1
	for _, j := range []int{0, last / 2, last} {
		for _, less := range []int64{0, 1} {
			if err := lookup(ctx, administrator, test, timestamps, timestamps[0][j]-less); err != nil {
				return err
			}
		}
	}
	return lookup(ctx, administrator, test, timestamps, timestamps[test.Partitions-1][last]+1_000_000)
}

// lookup asks every partition for one timestamp.
func lookup(ctx context.Context, administrator *kadm.Client, test *testCase, timestamps [][]int64, wanted int64) error {
	found, err := administrator.ListOffsetsAfterMilli(ctx, wanted, test.Topic)
	if err != nil {
		return err
	}
	for p, times := range timestamps {
		expected := int64(len(times)) // kadm answers with the end offset where no record is that new.
		for j, time := range times {
			if time >= wanted {
				expected = int64(j)
				break
			}
		}
		if got := found[test.Topic][int32(p)]; got.Err != nil || got.Offset != expected {
			return fmt.Errorf("partition %d timestamp %d found %v, not offset %d", p, wanted, got, expected)
		}
	}
	return nil
}

// byTimestamp starts to consume in the middle: even partitions by offset, odd ones by timestamp.
func byTimestamp(ctx context.Context, bootstrap string, test *testCase, timestamps [][]int64) error {
	from, next, count := map[int32]kgo.Offset{}, make([]int64, test.Partitions), 0
	for p, times := range timestamps {
		middle := (len(times) - 1) / 2
		next[p] = int64(middle)
		from[int32(p)] = kgo.NewOffset().At(int64(middle))
		if p%2 == 1 {
			for next[p] > 0 && times[next[p]-1] == times[middle] {
				next[p]--
			}
			from[int32(p)] = kgo.NewOffset().AfterMilli(times[middle])
		}
		count += len(times) - int(next[p])
	}
	return consume(ctx, bootstrap, test, from, count, func(record *kgo.Record) error {
		next[record.Partition]++
		return compare(test, record, next[record.Partition]-1)
	})
}

func admin(ctx context.Context, bootstrap string, test *testCase) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	administrator := kadm.NewClient(client)
	if _, err := administrator.CreateTopic(ctx, 3, 1, nil, test.Topic); err != nil {
		return err
	}
	topics, err := administrator.ListTopics(ctx)
	if err != nil || len(topics[test.Topic].Partitions) != 3 {
		return fmt.Errorf("the new topic: %v %v", topics[test.Topic], err)
	}
	if _, err := administrator.DeleteTopic(ctx, test.Topic); err != nil {
		return err
	}
	// A deletion reaches a broker's own view a moment after the controller has answered.
	for topics.Has(test.Topic) {
		if topics, err = administrator.ListTopics(ctx); err != nil {
			return fmt.Errorf("the deleted topic is still listed: %w", err)
		}
	}
	return nil
}
