package dev.linchpin.session;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.InvalidClassException;
import java.io.NotSerializableException;
import java.io.ObjectInputFilter;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.io.ObjectStreamClass;
import java.io.OutputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Turns a session into bytes and back, by Java serialisation. The same list of classes decides what is written and what is read:
 * what a copy contains can also be restored. An attribute that is not serialisable, or not of these classes, is left out.
 */
final class SessionCodec {
    /** Classes of the platform whose values are values: collections, numbers, texts, times. */
    static final String PLATFORM = "java.lang.Object;java.lang.String;java.lang.Enum;java.lang.Number;java.lang.Boolean;java.lang.Character;"
            + "java.lang.Byte;java.lang.Short;java.lang.Integer;java.lang.Long;java.lang.Float;java.lang.Double;java.math.*;java.util.*;"
            + "java.util.concurrent.**;java.time.**;java.net.URI;java.sql.Date;java.sql.Time;java.sql.Timestamp";

    private static final System.Logger LOG = System.getLogger(SessionCodec.class.getName());
    private static final byte FORMAT = 1;
    private static final int ATTEMPTS = 4;
    private static final int MOST_WARNINGS = 100;
    private static final String LIMITS = "maxdepth=200;maxrefs=1000000;maxarray=1000000;";

    private final ObjectInputFilter filter;
    private final Counters counters;
    private final Set<String> warned = ConcurrentHashMap.newKeySet();

    /** A session as bytes. Equal digests mean equal sessions. */
    record Written(byte[] bytes, byte[] digest) { }

    /** What stands before the attributes. */
    record Head(String id, long created, int maxInactive) { }

    /** A session that was read. */
    record Read(Head head, Map<String, Object> attributes, byte[] digest) { }

    /**
     * @param allow further classes, as patterns of {@link ObjectInputFilter.Config#createFilter}, or an empty text
     */
    SessionCodec(String allow, Counters counters) {
        filter = ObjectInputFilter.Config.createFilter(LIMITS + PLATFORM + (allow.isBlank() ? "" : ";" + allow.strip()) + ";!*");
        this.counters = counters;
    }

    /** @throws IOException if requests kept changing the session while it was written */
    Written write(LinchpinSession session) throws IOException {
        RuntimeException last = null;
        for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
            try {
                Map<String, Object> attributes = session.attributes();
                attributes.values().removeIf(value -> !(value instanceof java.io.Serializable) && isLeftOut(value.getClass().getName(), null));
                byte[] bytes;
                try {
                    bytes = write(session, attributes);
                } catch (IOException failure) {
                    // In one stream values may share objects, so the one that fails has to be found.
                    attributes.values().removeIf(this::fails);
                    bytes = write(session, attributes);
                }
                return new Written(bytes, digest(bytes));
            } catch (RuntimeException changing) {
                // Such as a ConcurrentModificationException of a list that another request is changing.
                last = changing;
            }
        }
        throw new IOException("the session kept changing", last);
    }

    private byte[] write(LinchpinSession session, Map<String, Object> attributes) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream(1024);
        DataOutputStream head = new DataOutputStream(bytes);
        head.writeByte(FORMAT);
        head.writeUTF(session.getId());
        head.writeLong(session.created());
        head.writeInt(session.getMaxInactiveInterval());
        head.flush();
        try (ObjectOutputStream out = new CheckedOutput(bytes)) {
            out.writeInt(attributes.size());
            for (Map.Entry<String, Object> attribute : attributes.entrySet()) {
                out.writeUTF(attribute.getKey());
                out.writeObject(attribute.getValue());
            }
        }
        return bytes.toByteArray();
    }

    /** Whether a value can't be written, even alone. */
    private boolean fails(Object value) {
        try (ObjectOutputStream out = new CheckedOutput(OutputStream.nullOutputStream())) {
            out.writeObject(value);
            return false;
        } catch (IOException failure) {
            return isLeftOut(value.getClass().getName(), failure);
        }
    }

    /** Counts and logs what is left out, each class once. Returns true. */
    private boolean isLeftOut(String name, IOException failure) {
        counters.notSerializable.increment();
        if (warned.size() < MOST_WARNINGS && warned.add(name)) {
            String reason = "it is not serializable";
            if (failure instanceof InvalidClassException) {
                reason = failure.getMessage() + " is not allowed: add it to the filter's parameter `allow`";
            } else if (failure instanceof NotSerializableException) {
                reason = failure.getMessage() + " is not serializable";
            } else if (failure != null) {
                reason = failure.toString();
            }
            LOG.log(System.Logger.Level.WARNING, "session attributes of class {0} are in no copy, and are lost with this server: {1}", name,
                    reason);
        }
        return true;
    }

    /** Reads what stands before the attributes. Returns null if it is another format. */
    Head head(byte[] bytes) {
        try {
            return head(new DataInputStream(new ByteArrayInputStream(bytes)));
        } catch (IOException malformed) {
            return null;
        }
    }

    private static Head head(DataInputStream in) throws IOException {
        byte format = in.readByte();
        if (format != FORMAT) {
            throw new IOException("format " + format);
        }
        return new Head(in.readUTF(), in.readLong(), in.readInt());
    }

    /** @throws IOException if it contains a class that is not allowed, or that this server does not have */
    Read read(byte[] bytes) throws IOException {
        ByteArrayInputStream in = new ByteArrayInputStream(bytes);
        Head head = head(new DataInputStream(in));
        Map<String, Object> attributes = new LinkedHashMap<>();
        try (ObjectInputStream objects = new CheckedInput(in)) {
            for (int left = objects.readInt(); left > 0; left--) {
                attributes.put(objects.readUTF(), objects.readObject());
            }
        } catch (ClassNotFoundException | RuntimeException failure) {
            throw new IOException(failure);
        }
        return new Read(head, attributes, digest(bytes));
    }

    private static byte[] digest(byte[] bytes) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(bytes);
        } catch (NoSuchAlgorithmException impossible) {
            throw new IllegalStateException("every Java platform has SHA-256", impossible);
        }
    }

    private boolean isAllowed(Class<?> type) {
        return filter.checkInput(new ObjectInputFilter.FilterInfo() {
            @Override
            public Class<?> serialClass() {
                return type;
            }

            @Override
            public long arrayLength() {
                return -1;
            }

            @Override
            public long depth() {
                return 1;
            }

            @Override
            public long references() {
                return 1;
            }

            @Override
            public long streamBytes() {
                return 0;
            }
        }) != ObjectInputFilter.Status.REJECTED;
    }

    /** Refuses to write a class that would not be read. */
    private final class CheckedOutput extends ObjectOutputStream {
        private boolean hasRefused;

        CheckedOutput(OutputStream out) throws IOException {
            super(out);
        }

        @Override
        protected void annotateClass(Class<?> type) throws IOException {
            // The first one only: the stream then writes the exception itself, and asks again for its class.
            if (!hasRefused && !isAllowed(type)) {
                hasRefused = true;
                throw new InvalidClassException(type.getName());
            }
        }

        @Override
        protected void annotateProxyClass(Class<?> type) throws IOException {
            throw new InvalidClassException(type.getName());
        }
    }

    /** Reads the application's classes, if they are allowed. */
    private final class CheckedInput extends ObjectInputStream {
        CheckedInput(ByteArrayInputStream in) throws IOException {
            super(in);
            setObjectInputFilter(filter);
        }

        @Override
        protected Class<?> resolveClass(ObjectStreamClass described) throws IOException, ClassNotFoundException {
            ClassLoader application = Thread.currentThread().getContextClassLoader();
            try {
                return Class.forName(described.getName(), false, application);
            } catch (ClassNotFoundException notThere) {
                // Primitive types, and classes of the platform if there is no context class loader.
                return super.resolveClass(described);
            }
        }
    }
}
