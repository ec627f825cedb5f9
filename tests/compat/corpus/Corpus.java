import java.io.File;
import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.Type;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;

import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.protocol.types.BoundField;
import org.apache.kafka.common.protocol.types.Schema;
import org.apache.kafka.common.protocol.types.TaggedFields;
import org.apache.kafka.common.record.internal.BaseRecords;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.SimpleRecord;
import org.apache.kafka.metadata.MetadataRecordSerde;
import org.apache.kafka.server.common.ApiMessageAndVersion;

/**
 * Prints what Kafka's own classes make of every message and record in every version: a line each,
 * "name version variant hex". Variants: "default" is a new object, "full" has a value of its own in every
 * field, "mixed-N" has nulls and empty arrays too. Among them metadata records as their log has them, "framed name
 * version hex", and last batches, "batch codec hex".
 */
public class Corpus {
    static final int MIXED = 2;

    public static void main(String[] arguments) throws Exception {
        Map<String, Class<?>> messages = new TreeMap<>();
        for (String path : System.getProperty("java.class.path").split(File.pathSeparator)) {
            if (path.endsWith(".jar")) {
                collect(path, messages);
            }
        }
        StringBuilder out = new StringBuilder();
        for (Class<?> message : messages.values()) {
            short first = message.getField("LOWEST_SUPPORTED_VERSION").getShort(null);
            short last = message.getField("HIGHEST_SUPPORTED_VERSION").getShort(null);
            for (short version = first; version <= last; version++) {
                framed(out, message, version);
                print(out, message, version, "default", message.getConstructor().newInstance());
                print(out, message, version, "full", new Filler(message, version, 0, false).fill(message));
                for (int seed = 1; seed <= MIXED; seed++) {
                    print(out, message, version, "mixed-" + seed, new Filler(message, version, seed, true).fill(message));
                }
            }
        }
        batches(out);
        System.out.print(out);
    }

    /** Every generated message class of a jar, by its plain name. */
    static void collect(String path, Map<String, Class<?>> messages) throws Exception {
        try (JarFile jar = new JarFile(path)) {
            for (JarEntry entry : (Iterable<JarEntry>) jar.stream()::iterator) {
                String name = entry.getName();
                if (!name.startsWith("org/apache/kafka/") || !name.endsWith(".class") || name.contains("$")) {
                    continue;
                }
                if (!name.contains("/message/") && !name.contains("/metadata/") && !name.contains("/generated/")) {
                    continue;
                }
                Class<?> found = Class.forName(name.replace('/', '.').substring(0, name.length() - 6), false, Corpus.class.getClassLoader());
                boolean isMessage = Message.class.isAssignableFrom(found) && !Modifier.isAbstract(found.getModifiers());
                if (isMessage && hasSchemas(found) && messages.put(found.getSimpleName(), found) != null) {
                    throw new IllegalStateException("two classes called " + found.getSimpleName());
                }
            }
        }
    }

    static boolean hasSchemas(Class<?> found) {
        try {
            return found.getField("SCHEMAS") != null;
        } catch (NoSuchFieldException absent) {
            return false;
        }
    }

    static void print(StringBuilder out, Class<?> type, short version, String variant, Object object) {
        Message message = (Message) object;
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer buffer = ByteBuffer.allocate(message.size(cache, version));
        message.write(new ByteBufferAccessor(buffer), cache, version);
        if (buffer.hasRemaining()) {
            throw new IllegalStateException(type + " promised more than it wrote");
        }
        out.append(type.getSimpleName()).append(' ').append(version).append(' ').append(variant)
            .append(' ').append(HexFormat.of().formatHex(buffer.array())).append('\n');
    }

    /** A record of the metadata log with what goes ahead of it. */
    static void framed(StringBuilder out, Class<?> type, short version) throws Exception {
        if (!type.getPackageName().equals("org.apache.kafka.common.metadata") || !ApiMessage.class.isAssignableFrom(type)) {
            return;
        }
        ApiMessage message = (ApiMessage) new Filler(type, version, 0, false).fill(type);
        ApiMessageAndVersion record = new ApiMessageAndVersion(message, version);
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer buffer = ByteBuffer.allocate(MetadataRecordSerde.INSTANCE.recordSize(record, cache));
        MetadataRecordSerde.INSTANCE.write(record, cache, new ByteBufferAccessor(buffer));
        out.append("framed ").append(type.getSimpleName()).append(' ').append(version)
            .append(' ').append(HexFormat.of().formatHex(buffer.array())).append('\n');
    }

    /** Gives every field that a version has a value, the same in every run. */
    static class Filler {
        final short version;
        final boolean mixed;
        long state;

        Filler(Class<?> message, short version, int seed, boolean mixed) {
            this.version = version;
            this.mixed = mixed;
            this.state = message.getSimpleName().hashCode() * 1000003L + version * 31 + seed;
        }

        /** SplitMix64. */
        long random() {
            state += 0x9e3779b97f4a7c15L;
            long bits = state;
            bits = (bits ^ (bits >>> 30)) * 0xbf58476d1ce4e5b9L;
            bits = (bits ^ (bits >>> 27)) * 0x94d049bb133111ebL;
            return bits ^ (bits >>> 31);
        }

        int below(int limit) {
            return (int) Long.remainderUnsigned(random(), limit);
        }

        Object fill(Class<?> type) throws Exception {
            Object object = type.getConstructor().newInstance();
            Schema[] schemas = (Schema[]) type.getField("SCHEMAS").get(null);
            for (BoundField field : schemas[version].fields()) {
                if (field.def.type instanceof TaggedFields tagged) {
                    for (org.apache.kafka.common.protocol.types.Field one : tagged.fields().values()) {
                        set(object, one.name, one.type);
                    }
                } else {
                    set(object, field.def.name, field.def.type);
                }
            }
            return object;
        }

        void set(Object object, String name, org.apache.kafka.common.protocol.types.Type type) throws Exception {
            Field field = find(object.getClass(), name);
            if (mixed && type.isNullable() && below(3) == 0) {
                field.set(object, null);
            } else if (mixed && Collection.class.isAssignableFrom(field.getType()) && below(3) == 0) {
                // Left as a new object has it, mostly empty; null where it may not be stays out.
                if (field.get(object) == null && !type.isNullable()) {
                    field.set(object, value(field.getType(), field.getGenericType(), type));
                }
            } else {
                field.set(object, value(field.getType(), field.getGenericType(), type));
            }
        }

        static Field find(Class<?> type, String name) {
            String wanted = name.replace("_", "").toLowerCase();
            for (Field field : type.getDeclaredFields()) {
                if (!Modifier.isStatic(field.getModifiers()) && field.getName().toLowerCase().equals(wanted)) {
                    field.setAccessible(true);
                    return field;
                }
            }
            throw new IllegalStateException(type + " has no field " + name);
        }

        Object value(Class<?> type, Type generic, org.apache.kafka.common.protocol.types.Type wire) throws Exception {
            String wireName = wire.toString();
            if (type == boolean.class) {
                return !mixed || below(2) == 0;
            } else if (type == byte.class || type == Byte.class) {
                return (byte) (random() | 1);
            } else if (type == short.class || type == Short.class) {
                return (short) (random() | 1);
            } else if (type == int.class || type == Integer.class) {
                return wireName.equals("UINT16") ? below(0xffff) + 1 : (int) (random() | 1);
            } else if (type == long.class || type == Long.class) {
                return wireName.equals("UNSIGNED_INT32") ? random() & 0xffffffffL : random() | 1;
            } else if (type == double.class) {
                return (double) (int) random() / 8;
            } else if (type == String.class) {
                return "né→𝄞x".substring(0, 1 + below(3)) + below(1000);
            } else if (type == Uuid.class) {
                return new Uuid(random(), random());
            } else if (type == byte[].class) {
                return bytes();
            } else if (type == ByteBuffer.class) {
                return ByteBuffer.wrap(bytes());
            } else if (BaseRecords.class.isAssignableFrom(type)) {
                return MemoryRecords.readableRecords(ByteBuffer.wrap(bytes()));
            } else if (Message.class.isAssignableFrom(type)) {
                return fill(type);
            } else if (type == List.class) {
                Class<?> element = (Class<?>) ((ParameterizedType) generic).getActualTypeArguments()[0];
                List<Object> list = new ArrayList<>();
                fillCollection(list, element, wire);
                return list;
            } else if (Collection.class.isAssignableFrom(type)) {
                Class<?> element = (Class<?>) ((ParameterizedType) type.getGenericSuperclass()).getActualTypeArguments()[0];
                @SuppressWarnings("unchecked")
                Collection<Object> collection = (Collection<Object>) type.getConstructor().newInstance();
                fillCollection(collection, element, wire);
                return collection;
            }
            throw new IllegalStateException("no value for " + type);
        }

        void fillCollection(Collection<Object> collection, Class<?> element, org.apache.kafka.common.protocol.types.Type wire) throws Exception {
            var elementWire = wire.arrayElementType().orElseThrow();
            for (int index = 1 + below(2); index > 0; index--) {
                collection.add(value(element, element, elementWire));
            }
        }

        byte[] bytes() {
            byte[] bytes = new byte[1 + below(12)];
            for (int index = 0; index < bytes.length; index++) {
                bytes[index] = (byte) random();
            }
            return bytes;
        }
    }

    /** 300 records that the reader knows how to make too, in one batch of each codec. */
    static void batches(StringBuilder out) {
        Map<String, Compression> codecs = new TreeMap<>(Map.of(
            "none", Compression.NONE,
            "gzip", Compression.gzip().build(),
            "snappy", Compression.snappy().build(),
            "lz4", Compression.lz4().build(),
            "zstd", Compression.zstd().build()));
        codecs.forEach((name, codec) -> {
            SimpleRecord[] records = new SimpleRecord[300];
            for (int index = 0; index < records.length; index++) {
                byte[] key = index % 3 == 0 ? null : ("key-" + index).getBytes(StandardCharsets.UTF_8);
                byte[] value = index % 7 == 0 ? null : ("value-" + index + "-").repeat(index).getBytes(StandardCharsets.UTF_8);
                Header[] headers = index % 5 == 0
                    ? new Header[] {new RecordHeader("h" + index, new byte[] {(byte) index}), new RecordHeader("null", (byte[]) null)}
                    : new Header[0];
                records[index] = new SimpleRecord(1_700_000_000_000L + (index * 37) % 100, key, value, headers);
            }
            MemoryRecords batch = MemoryRecords.withIdempotentRecords((byte) 2, 40, codec, 1234, (short) 5, 77, 9, records);
            byte[] bytes = new byte[batch.sizeInBytes()];
            batch.buffer().duplicate().get(bytes);
            out.append("batch ").append(name).append(' ').append(HexFormat.of().formatHex(bytes)).append('\n');
        });
    }
}
