package dev.linchpin.session;

import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.locks.ReentrantLock;

/**
 * What this server remembers for each ref: the version, and either the session, or a sealed copy that no request has opened yet,
 * or that the session has ended. Every rule about versions is here; it touches no request and no session's content.
 *
 * <p>One monitor guards it all, for a few instructions each time. {@link Entry#lock} is taken before it, and is held while a
 * session is serialised, so that a higher seq is always a newer state.
 */
final class RefTable {
    /** What is remembered for one ref. */
    static final class Entry {
        final String ref;
        /** Held while the session of this ref is serialised or opened. */
        final ReentrantLock lock = new ReentrantLock();
        /** Null if nothing was saved or taken yet. */
        private Version version;
        private LinchpinSession session;
        private byte[] given;
        private long givenAt;
        private long givenUntil;
        private boolean dropped;
        /** How often another server's state was taken, or a drop. */
        private int overtakes;
        /** Requests that use this entry. */
        private int users;
        private long usedAt;

        private Entry(String ref) {
            this.ref = ref;
        }
    }

    /** A copy that was given, and when: its idle time counts from then. */
    record Given(byte[] copy, long at, int overtakes) { }

    /** The longest that a drop is remembered after its last use, in milliseconds. */
    private static final long DROPS_LAST = 3_600_000;

    private final Map<String, Entry> entries = new HashMap<>();
    /** The entries with a copy that waits, the least recently given first. */
    private final LinkedHashMap<String, Entry> waiting = new LinkedHashMap<>();
    private final long maxWaiting;
    private final int maxEnded;
    private long waitingBytes;
    private long evicted;

    /**
     * @param maxWaiting bytes of the copies that wait for their first request
     * @param maxEnded refs whose sessions have ended
     */
    RefTable(long maxWaiting, int maxEnded) {
        this.maxWaiting = maxWaiting;
        this.maxEnded = maxEnded;
    }

    /**
     * Begins a request. Returns its entry, or null if the request must not run: the state that it needs is not here. Forgets what
     * is outdated. Each entry that is returned must be {@link #release released}.
     */
    synchronized Entry admit(SessionField field, long now) {
        Entry entry = entries.get(field.ref());
        if (field.seq() != null && !field.dropped() && (entry == null || entry.version == null || entry.version.isLowerThan(field.version()))) {
            return null;
        }
        if (entry == null) {
            entry = new Entry(field.ref());
            entries.put(field.ref(), entry);
        } else if (entry.version != null) {
            if (field.dropped() && entry.version.isLowerThan(field.version())) {
                forget(entry);
                drop(entry, field.version());
            } else if (field.seq() == null && entry.version.term() < field.term() - 1) {
                // Another server has had the session since, and its copy is lost.
                forget(entry);
                entry.version = null;
                entry.dropped = false;
            }
        }
        entry.users++;
        entry.usedAt = now;
        return entry;
    }

    /** Begins another part of a request whose entry was released, such as its error page. */
    synchronized void admitAgain(Entry entry) {
        entries.putIfAbsent(entry.ref, entry);
        entry.users++;
    }

    synchronized void release(Entry entry) {
        entry.users--;
        if (entry.version == null && entry.users == 0) {
            entries.remove(entry.ref, entry);
        }
    }

    /**
     * Takes a copy. Returns null if it was taken, or the version that this server has instead.
     *
     * @param until when its session is over if no request comes
     */
    synchronized Version put(String ref, Version version, byte[] copy, long now, long until) {
        Entry entry = entries.computeIfAbsent(ref, Entry::new);
        if (entry.version != null) {
            int order = version.compareTo(entry.version);
            if (order < 0 || order == 0 && entry.dropped) {
                return entry.version;
            }
            if (order == 0) {
                return null;
            }
        }
        forget(entry);
        entry.version = version;
        entry.dropped = false;
        entry.usedAt = now;
        entry.given = copy;
        entry.givenAt = now;
        entry.givenUntil = until;
        waitingBytes += copy.length;
        waiting.put(ref, entry);
        while (waitingBytes > maxWaiting) {
            Entry oldest = waiting.values().iterator().next();
            forget(oldest);
            oldest.version = null;
            evicted++;
            if (oldest.users == 0) {
                entries.remove(oldest.ref);
            }
        }
        return null;
    }

    /** Ends the session of a ref. Returns null if it has ended, or the higher version that this server has. */
    synchronized Version delete(String ref, Version version, long now) {
        Entry entry = entries.computeIfAbsent(ref, Entry::new);
        if (entry.version != null && version.isLowerThan(entry.version)) {
            return entry.version;
        }
        forget(entry);
        drop(entry, version);
        entry.usedAt = now;
        return null;
    }

    /** Returns the copy that waits for a request, or null. */
    synchronized Given given(Entry entry) {
        return entry.given == null ? null : new Given(entry.given, entry.givenAt, entry.overtakes);
    }

    /** Replaces the copy by the session that it contained, unless something newer was taken meanwhile. */
    synchronized boolean opened(Entry entry, Given given, LinchpinSession session) {
        if (entry.overtakes != given.overtakes() || entry.given == null) {
            return false;
        }
        takeGiven(entry);
        entry.session = session;
        return true;
    }

    synchronized Version version(Entry entry) {
        return entry.version;
    }

    /** Returns the session that was last saved or taken under this ref, or null. */
    synchronized LinchpinSession session(Entry entry) {
        return entry.session;
    }

    synchronized boolean isDropped(Entry entry) {
        return entry.dropped;
    }

    synchronized int overtakes(Entry entry) {
        return entry.overtakes;
    }

    /** Returns the version of the next state: the request's term, and one more than every seq that is known of this ref. */
    synchronized Version next(Entry entry, SessionField field) {
        long own = entry.version == null ? 0 : entry.version.seq();
        return new Version(field.term(), Math.max(own, field.seq() == null ? 0 : field.seq()) + 1);
    }

    /**
     * Notes that a request has saved this session (or, with null, has ended it) as this version. Returns false, and changes
     * nothing, if another server's state was taken since the request began: this one will be refused.
     */
    synchronized boolean saved(Entry entry, int overtakes, Version version, LinchpinSession session) {
        if (entry.overtakes != overtakes || entry.version != null && version.isLowerThan(entry.version)) {
            return false;
        }
        takeGiven(entry);
        entry.version = version;
        entry.session = session;
        entry.dropped = session == null;
        return true;
    }

    /** Notes that a session has ended by itself: the next response under its ref will say so. */
    synchronized void expired(LinchpinSession session) {
        String ref = session.ref();
        Entry entry = ref == null ? null : entries.get(ref);
        if (entry != null && entry.session == session) {
            drop(entry, new Version(entry.version.term(), entry.version.seq() + 1));
        }
    }

    /** Forgets drops that are old or too many, and copies whose session is over before anybody has asked for it. */
    synchronized void sweep(long now) {
        int ended = 0;
        for (Iterator<Entry> all = entries.values().iterator(); all.hasNext();) {
            Entry entry = all.next();
            if (entry.users > 0 || entry.session != null) {
                continue;
            }
            boolean isOver = entry.given != null && now > entry.givenUntil;
            boolean isForgotten = entry.given == null && (now - entry.usedAt > DROPS_LAST || ++ended > maxEnded);
            if (isOver || isForgotten) {
                takeGiven(entry);
                all.remove();
            }
        }
    }

    synchronized long waitingBytes() {
        return waitingBytes;
    }

    synchronized int waitingCopies() {
        return waiting.size();
    }

    synchronized long evictedCopies() {
        return evicted;
    }

    synchronized int size() {
        return entries.size();
    }

    private static void drop(Entry entry, Version version) {
        entry.version = version;
        entry.session = null;
        entry.dropped = true;
    }

    /** Forgets session and copy, since another server knows better. Requests under way no longer write to this entry. */
    private void forget(Entry entry) {
        takeGiven(entry);
        entry.overtakes++;
        LinchpinSession session = entry.session;
        entry.session = null;
        if (session != null && entry.ref.equals(session.ref())) {
            session.detach();
        }
    }

    private void takeGiven(Entry entry) {
        if (entry.given != null) {
            waitingBytes -= entry.given.length;
            entry.given = null;
            waiting.remove(entry.ref);
        }
    }
}
