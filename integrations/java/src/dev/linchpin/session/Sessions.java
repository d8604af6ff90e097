package dev.linchpin.session;

import jakarta.servlet.ServletContext;
import java.security.SecureRandom;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The sessions in this server's memory, by id. An id is made here and is never the client's: a client can't have a session begin
 * under an id that it chose.
 */
final class Sessions {
    private static final int ID_BYTES = 16;

    private final Map<String, LinchpinSession> byId = new ConcurrentHashMap<>();
    private final SecureRandom random = new SecureRandom();
    private final ServletContext context;
    private final Listeners listeners;
    private final int maxInactive;

    /** @param maxInactive seconds until a session ends of which nobody says otherwise; 0 or less: never */
    Sessions(ServletContext context, Listeners listeners, int maxInactive) {
        this.context = context;
        this.listeners = listeners;
        this.maxInactive = maxInactive;
    }

    ServletContext context() {
        return context;
    }

    Listeners listeners() {
        return listeners;
    }

    int size() {
        return byId.size();
    }

    LinchpinSession create(long now) {
        LinchpinSession session = new LinchpinSession(this, newId(), now, now, maxInactive, true);
        byId.put(session.getId(), session);
        listeners.created(session);
        return session;
    }

    /** Returns the session with this id. Ends it instead if its time is over. */
    LinchpinSession find(String id, long now, RefTable refs) {
        LinchpinSession session = byId.get(id);
        if (session != null && session.isExpired(now)) {
            expire(session, refs);
            return null;
        }
        return session == null || !session.isValid() ? null : session;
    }

    /** Adds a session that came from another server. It replaces the one that this server still has of it. */
    void restore(LinchpinSession session) {
        byId.put(session.getId(), session);
    }

    /** Gives a session a new id, and the old id is worth nothing from now on. */
    void rename(LinchpinSession session) {
        String oldId = session.getId();
        String newId = newId();
        session.rename(newId);
        // Not if another server has it by now.
        if (byId.remove(oldId, session)) {
            byId.put(newId, session);
        }
        listeners.renamed(session, oldId);
    }

    void remove(LinchpinSession session) {
        byId.remove(session.getId(), session);
    }

    /** Ends the sessions whose time is over. */
    void sweep(long now, RefTable refs) {
        for (LinchpinSession session : byId.values()) {
            if (session.isExpired(now)) {
                expire(session, refs);
            }
        }
    }

    private static void expire(LinchpinSession session, RefTable refs) {
        refs.expired(session);
        session.end();
    }

    private String newId() {
        byte[] bytes = new byte[ID_BYTES];
        random.nextBytes(bytes);
        return HexFormat.of().withUpperCase().formatHex(bytes);
    }
}
