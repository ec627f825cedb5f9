// The Java client's part of the compatibility suite; the cases and the records are described in tests/compat/README.md.
// `java Client BOOTSTRAP`: a case a line on stdin (JSON), `pass NAME` or `FAIL NAME: why` a line on stdout.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Client {
    static final long DEADLINE_MS = 20_000;
    static String bootstrap;

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        if (arguments.length > 1) {
            member(arguments[2], arguments[3], arguments[4], arguments.length > 5 ? arguments[5] : null);
            return;
        }
        ObjectMapper mapper = new ObjectMapper();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            JsonNode test = mapper.readTree(line);
            String name = test.get("name").asText();
            try {
                switch (test.get("kind").asText()) {
                    case "admin" -> admin(test);
                    case "produce" -> {
                        produce(test);
                        verify(test);
                    }
                    case "verify" -> verify(test);
                    default -> throw new IllegalArgumentException("kind");
                }
                System.out.println("pass " + name);
            } catch (Exception | AssertionError error) {
                System.out.println("FAIL " + name + ": " + error);
            }
            System.out.flush();
        }
    }

    /** A member of a group (groups.py): see "In a group" in tests/compat/README.md. */
    static void member(String group, String topic, String assignor, String instance) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("group.id", group);
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        settings.put("metadata.max.age.ms", "1000");
        boolean newProtocol = assignor.equals("consumer");
        if (newProtocol) {
            settings.put("group.protocol", "consumer");
        } else {
            settings.put("session.timeout.ms", "6000");
            settings.put("heartbeat.interval.ms", "500");
            settings.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer."
                    + (assignor.equals("range") ? "RangeAssignor" : "CooperativeStickyAssignor"));
        }
        if (instance != null) settings.put("group.instance.id", instance);
        KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        LinkedBlockingQueue<String> commands = new LinkedBlockingQueue<>();
        Thread listening = new Thread(() -> {
            new BufferedReader(new InputStreamReader(System.in)).lines().forEach(commands::add);
            commands.add("leave");
        });
        listening.setDaemon(true);
        listening.start();
        // A name is subscribed to as a pattern that nothing else fits; in the new protocol the broker looks patterns up.
        String pattern = topic.startsWith("^") ? topic : "^" + topic + "$";
        if (newProtocol) {
            consumer.subscribe(new org.apache.kafka.clients.consumer.SubscriptionPattern(pattern));
        } else {
            consumer.subscribe(java.util.regex.Pattern.compile(pattern));
        }
        boolean uncommitted = false;
        boolean waits = true;
        while (true) {
            String command = commands.poll();
            if (command != null) {
                if (command.equals("leave")) break;
                if (command.equals("async")) waits = false;
                if (command.equals("pause")) consumer.pause(consumer.assignment());
                if (command.equals("resume")) consumer.resume(consumer.assignment());
                if (command.startsWith("seek ")) {
                    for (TopicPartition partition : consumer.assignment()) consumer.seek(partition, Long.parseLong(command.substring(5)));
                }
                System.out.println("done");
            }
            ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(200));
            uncommitted |= !records.isEmpty();
            for (ConsumerRecord<byte[], byte[]> record : records) {
                System.out.println("record " + record.topic() + " " + record.partition() + " " + record.offset());
            }
            System.out.flush();
            try {
                if (uncommitted && waits) consumer.commitSync();
                if (uncommitted && !waits) consumer.commitAsync();
                uncommitted = false;
            } catch (org.apache.kafka.clients.consumer.CommitFailedException | org.apache.kafka.common.errors.RebalanceInProgressException error) {
                System.out.println("uncommitted " + error);
            }
        }
        consumer.close();
    }

    static byte[] key(int i) {
        return i % 7 == 3 && i % 11 != 5 ? null : ("key-" + i).getBytes();
    }

    static byte[] value(int i) {
        if (i % 11 == 5) return null;
        byte[] value = new byte[1 + i * 37 % 900];
        for (int k = 0; k < value.length; k++) {
            int b = (i * 31 + k * 7) & 0xff;
            value[k] = (byte) (b == 10 || b == 31 ? 0 : b);
        }
        return value;
    }

    static List<Map.Entry<String, byte[]>> headers(int partition) {
        List<Map.Entry<String, byte[]>> headers = new ArrayList<>();
        if (partition % 3 > 0) headers.add(Map.entry("h0", ("v" + partition).getBytes()));
        if (partition % 3 > 1) headers.add(Map.entry("h1", new byte[] {(byte) 0xff, (byte) ('a' + partition)}));
        return headers;
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static void produce(JsonNode test) throws Exception {
        int partitions = test.get("partitions").asInt();
        int records = test.get("records").asInt();
        String acks = test.get("acks").asText();
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("acks", acks);
        properties.put("compression.type", test.get("codec").asText());
        properties.put("enable.idempotence", test.get("idempotent").asBoolean());
        properties.put("linger.ms", 20);
        properties.put("max.in.flight.requests.per.connection", acks.equals("1") ? 1 : 5);
        properties.put("key.serializer", ByteArraySerializer.class.getName());
        properties.put("value.serializer", ByteArraySerializer.class.getName());
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(properties)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < records; i++) {
                ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(test.get("topic").asText(), i % partitions,
                        test.get("base_timestamp").asLong() + i * 10L, key(i), value(i));
                headers(i % partitions).forEach(header -> record.headers().add(header.getKey(), header.getValue()));
                sent.add(producer.send(record));
            }
            producer.flush();
            for (int i = 0; i < records; i++) {
                long offset = sent.get(i).get().offset();
                check(acks.equals("0") || offset == i / partitions, "record " + i + " acknowledged at offset " + offset);
            }
        }
    }

    static void verify(JsonNode test) {
        String topic = test.get("topic").asText();
        int partitions = test.get("partitions").asInt();
        int records = test.get("records").asInt();
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("key.deserializer", ByteArrayDeserializer.class.getName());
        properties.put("value.deserializer", ByteArrayDeserializer.class.getName());
        properties.put("fetch.max.wait.ms", 10);
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(properties)) {
            check(consumer.partitionsFor(topic).size() == partitions, "partition count");
            List<TopicPartition> all = new ArrayList<>();
            for (int p = 0; p < partitions; p++) all.add(new TopicPartition(topic, p));
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, List<Long>> timestamps = new HashMap<>();
            all.forEach(partition -> timestamps.put(partition, new ArrayList<>()));
            long deadline = System.currentTimeMillis() + DEADLINE_MS;
            for (int read = 0; read < records; ) {
                check(System.currentTimeMillis() < deadline, "read only " + read + " of " + records + " records");
                ConsumerRecords<byte[], byte[]> polled = consumer.poll(Duration.ofMillis(200));
                for (ConsumerRecord<byte[], byte[]> record : polled) {
                    List<Long> seen = timestamps.get(new TopicPartition(topic, record.partition()));
                    compare(test, record, seen.size());
                    seen.add(record.timestamp());
                    read++;
                }
            }
            consumer.beginningOffsets(all).forEach((partition, offset) -> check(offset == 0, partition + " begins at " + offset));
            consumer.endOffsets(all).forEach((partition, offset) ->
                    check(offset == timestamps.get(partition).size(), partition + " ends at " + offset));
            for (TopicPartition partition : all) byTimestamp(consumer, test, partition, timestamps.get(partition));
        }
    }

    static void compare(JsonNode test, ConsumerRecord<byte[], byte[]> record, int expectedOffset) {
        int i = expectedOffset * test.get("partitions").asInt() + record.partition();
        String where = "partition " + record.partition() + " offset " + expectedOffset + ": ";
        check(record.offset() == expectedOffset, where + "got offset " + record.offset());
        check(Arrays.equals(record.key(), key(i)), where + "key differs");
        check(Arrays.equals(record.value(), value(i)), where + "value differs");
        check(!test.get("timestamps").asBoolean() || record.timestamp() == test.get("base_timestamp").asLong() + i * 10L,
                where + "timestamp " + record.timestamp());
        Header[] got = record.headers().toArray();
        List<Map.Entry<String, byte[]>> wanted = headers(record.partition());
        check(got.length == wanted.size(), where + got.length + " headers");
        for (int h = 0; h < got.length; h++) {
            check(got[h].key().equals(wanted.get(h).getKey()) && Arrays.equals(got[h].value(), wanted.get(h).getValue()),
                    where + "header " + h + " differs");
        }
    }

    static void byTimestamp(KafkaConsumer<byte[], byte[]> consumer, JsonNode test, TopicPartition partition, List<Long> timestamps) {
        int last = timestamps.size() - 1;
        for (int j : new int[] {0, last / 2, last}) {
            for (long wanted : new long[] {timestamps.get(j), timestamps.get(j) - 1}) {
                long expected = timestamps.indexOf(timestamps.stream().filter(t -> t >= wanted).findFirst().orElseThrow());
                OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(partition, wanted)).get(partition);
                check(found != null && found.offset() == expected && found.timestamp() == timestamps.get((int) expected),
                        partition + " timestamp " + wanted + " found " + found + ", not offset " + expected);
            }
        }
        Map<TopicPartition, OffsetAndTimestamp> none = consumer.offsetsForTimes(Map.of(partition, timestamps.get(last) + 1));
        check(none.get(partition) == null, partition + " found a record after the newest");
        consumer.assign(List.of(partition));
        consumer.seek(partition, last / 2);
        long deadline = System.currentTimeMillis() + DEADLINE_MS;
        ConsumerRecords<byte[], byte[]> polled = ConsumerRecords.empty();
        while (polled.isEmpty() && System.currentTimeMillis() < deadline) polled = consumer.poll(Duration.ofMillis(200));
        check(!polled.isEmpty(), partition + " gave nothing after seek");
        compare(test, polled.iterator().next(), last / 2);
    }

    static void admin(JsonNode test) throws Exception {
        String topic = test.get("topic").asText();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1).configs(Map.of("retention.ms", "3600000")))).all().get();
            check(admin.listTopics().names().get().contains(topic), "the new topic is not listed");
            Collection<?> partitions = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions();
            check(partitions.size() == 3, partitions.size() + " partitions");
            admin.deleteTopics(List.of(topic)).all().get();
            // A deletion reaches a broker's own view a moment after the controller has answered.
            long deadline = System.currentTimeMillis() + DEADLINE_MS;
            while (admin.listTopics().names().get().contains(topic)) {
                check(System.currentTimeMillis() < deadline, "the deleted topic is still listed");
            }
        }
    }
}
