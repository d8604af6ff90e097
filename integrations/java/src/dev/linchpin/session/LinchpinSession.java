package dev.linchpin.session;

import jakarta.servlet.ServletContext;
import jakarta.servlet.http.HttpSession;
import jakarta.servlet.http.HttpSessionActivationListener;
import jakarta.servlet.http.HttpSessionBindingEvent;
import jakarta.servlet.http.HttpSessionBindingListener;
import jakarta.servlet.http.HttpSessionEvent;
import java.util.Collections;
import java.util.Enumeration;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;

/** A session of the application: its attributes, in this server's memory. */
final class LinchpinSession implements HttpSession {
    /** Values that nobody can change: only a call of setAttribute changes the session. */
    private static final Set<Class<?>> IMMUTABLE = Set.of(String.class, Boolean.class, Character.class, Byte.class, Short.class,
            Integer.class, Long.class, Float.class, Double.class, java.math.BigInteger.class, java.math.BigDecimal.class,
            java.util.UUID.class, java.util.Locale.class, java.time.Instant.class, java.time.LocalDate.class,
            java.time.LocalDateTime.class, java.time.ZonedDateTime.class, java.time.Duration.class);

    private final Sessions sessions;
    private final long created;
    private final Map<String, Object> attributes = new ConcurrentHashMap<>();
    private volatile String id;
    private volatile int maxInactive;
    private volatile long lastAccessed;
    private volatile long previouslyAccessed;
    private volatile boolean isNew;
    private volatile boolean isValid = true;
    private volatile boolean isChanged = true;

    // What was last saved or taken. Written under the lock of the ref's entry.
    private volatile String ref;
    private volatile byte[] digest;
    private volatile long savedAt;

    LinchpinSession(Sessions sessions, String id, long created, long lastAccessed, int maxInactive, boolean isNew) {
        this.sessions = sessions;
        this.id = id;
        this.created = created;
        this.lastAccessed = lastAccessed;
        this.previouslyAccessed = lastAccessed;
        this.maxInactive = maxInactive;
        this.isNew = isNew;
    }

    // What the filter needs.

    /** Begins a request of this session. */
    void access(long now) {
        previouslyAccessed = lastAccessed;
        lastAccessed = now;
    }

    void joined() {
        isNew = false;
    }

    long created() {
        return created;
    }

    boolean isValid() {
        return isValid;
    }

    boolean isExpired(long now) {
        return maxInactive > 0 && now - lastAccessed >= maxInactive * 1000L;
    }

    /** Returns false only if nothing can have changed since the last call of {@link #attributes}. */
    boolean mayHaveChanged() {
        if (isChanged) {
            return true;
        }
        for (Object value : attributes.values()) {
            if (!IMMUTABLE.contains(value.getClass()) && !(value instanceof Enum)) {
                return true;
            }
        }
        return false;
    }

    void setChanged() {
        isChanged = true;
    }

    /** Returns the attributes, to be serialised, in an order that depends on their names alone. */
    Map<String, Object> attributes() {
        isChanged = false;
        return new TreeMap<>(attributes);
    }

    boolean isEmpty() {
        return attributes.isEmpty();
    }

    /** The ref under which it was last saved or taken, or null. */
    String ref() {
        return ref;
    }

    /** Identifies the state that was last saved or taken; null if there is none. */
    byte[] digest() {
        return digest;
    }

    /** Whether so much of its time has passed since the last save that copies elsewhere may soon seem to be over. */
    boolean isSaveOld(long now) {
        return maxInactive > 0 && now - savedAt > maxInactive * 1000L / 4;
    }

    void saved(String ref, byte[] digest, long now) {
        this.ref = ref;
        this.digest = digest;
        this.savedAt = now;
    }

    /** Puts in what a copy contains, and tells the values about it. */
    void restore(Map<String, Object> copied, String ref, byte[] digest, long now) {
        attributes.putAll(copied);
        isChanged = false;
        saved(ref, digest, now);
        HttpSessionEvent event = new HttpSessionEvent(this);
        for (Object value : copied.values()) {
            if (value instanceof HttpSessionActivationListener listener) {
                listener.sessionDidActivate(event);
            }
        }
    }

    void rename(String newId) {
        id = newId;
        isChanged = true;
    }

    /** Leaves this server's memory: another server has it now. Nobody is told, since the session goes on. */
    void detach() {
        sessions.remove(this);
    }

    /** Ends, once. Returns false if it had ended before. */
    boolean end() {
        synchronized (this) {
            if (!isValid) {
                return false;
            }
            isValid = false;
        }
        sessions.remove(this);
        sessions.listeners().destroyed(this);
        for (String name : Set.copyOf(attributes.keySet())) {
            remove(name);
        }
        return true;
    }

    private void check() {
        if (!isValid) {
            throw new IllegalStateException("this session has ended");
        }
    }

    // What the application sees.

    @Override
    public String getId() {
        return id;
    }

    @Override
    public long getCreationTime() {
        check();
        return created;
    }

    @Override
    public long getLastAccessedTime() {
        check();
        return previouslyAccessed;
    }

    @Override
    public ServletContext getServletContext() {
        return sessions.context();
    }

    @Override
    public void setMaxInactiveInterval(int seconds) {
        maxInactive = seconds;
        isChanged = true;
    }

    @Override
    public int getMaxInactiveInterval() {
        return maxInactive;
    }

    @Override
    public Object getAttribute(String name) {
        check();
        return name == null ? null : attributes.get(name);
    }

    @Override
    public Enumeration<String> getAttributeNames() {
        check();
        return Collections.enumeration(Set.copyOf(attributes.keySet()));
    }

    @Override
    public void setAttribute(String name, Object value) {
        if (name == null) {
            throw new IllegalArgumentException("an attribute needs a name");
        }
        if (value == null) {
            removeAttribute(name);
            return;
        }
        check();
        Object bound = attributes.get(name);
        if (value != bound && value instanceof HttpSessionBindingListener listener) {
            listener.valueBound(new HttpSessionBindingEvent(this, name, value));
        }
        Object old = attributes.put(name, value);
        isChanged = true;
        if (old != null && old != value && old instanceof HttpSessionBindingListener listener) {
            listener.valueUnbound(new HttpSessionBindingEvent(this, name, old));
        }
        sessions.listeners().set(this, name, value, old);
    }

    @Override
    public void removeAttribute(String name) {
        check();
        if (name != null) {
            remove(name);
        }
    }

    private void remove(String name) {
        Object old = attributes.remove(name);
        if (old == null) {
            return;
        }
        isChanged = true;
        if (old instanceof HttpSessionBindingListener listener) {
            listener.valueUnbound(new HttpSessionBindingEvent(this, name, old));
        }
        sessions.listeners().removed(this, name, old);
    }

    @Override
    public void invalidate() {
        if (!end()) {
            throw new IllegalStateException("this session has ended");
        }
    }

    @Override
    public boolean isNew() {
        check();
        return isNew;
    }
}
