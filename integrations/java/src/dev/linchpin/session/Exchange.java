package dev.linchpin.session;

import jakarta.servlet.SessionCookieConfig;
import jakarta.servlet.http.Cookie;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.LongAdder;

/**
 * One request and its response: which session it has, and what the header section of the response says about it. The container's
 * own request and response are used here, without the filter's wrappers.
 */
final class Exchange {
    private static final System.Logger LOG = System.getLogger(Exchange.class.getName());
    private static final String SAVE = "Linchpin-Session-Save";
    private static final String DROP = "Linchpin-Session-Drop";
    /** The ttl of a session that never ends by itself, in seconds. */
    private static final long LONG = 30L * 24 * 3600;
    private static final AtomicBoolean HAS_WARNED = new AtomicBoolean();

    private final Parts parts;
    private final HttpServletRequest request;
    private final HttpServletResponse response;
    /** Null if the request does not come from Linchpin. */
    private final SessionField field;
    private final RefTable.Entry entry;
    private final int overtakes;
    private final List<String> requestedIds;
    private LinchpinSession session;
    /** The session that ended before this one began. */
    private LinchpinSession ended;
    private boolean isUsed;
    private boolean isReleased;
    /** The version that Linchpin knows, or will know by this response. */
    private Version known;
    /** The id under which the request's session arrived, or null. */
    private String arrivedId;
    /** The id that the client will have by this response. */
    private String cookieId;
    /** Which of the two fields the response has. A field can be replaced, but Servlet 6.0 can't remove one. */
    private String said;

    /** @param field null if the request does not come from Linchpin; then there is no entry, either */
    Exchange(Parts parts, HttpServletRequest request, HttpServletResponse response, SessionField field, RefTable.Entry entry) {
        this.parts = parts;
        this.request = request;
        this.response = response;
        this.field = field;
        this.entry = entry;
        overtakes = entry == null ? 0 : parts.refs().overtakes(entry);
        known = field == null ? null : field.version();
        Cookie[] cookies = request.getCookies();
        requestedIds = cookies == null ? List.of()
                : Arrays.stream(cookies).filter(cookie -> cookie.getName().equals(parts.settings().cookie())).map(Cookie::getValue).toList();
        find(System.currentTimeMillis());
    }

    // The session of the request.

    private void find(long now) {
        RefTable.Given given = entry == null ? null : parts.refs().given(entry);
        if (given != null) {
            open(now);
        } else {
            for (String id : requestedIds) {
                session = parts.sessions().find(id, now, parts.refs());
                if (session != null) {
                    break;
                }
            }
        }
        if (session != null) {
            arrivedId = session.getId();
            cookieId = arrivedId;
            session.joined();
            session.access(now);
        }
    }

    /** Opens the copy that was given for this ref. It becomes the session only if the request's cookie names it. */
    private void open(long now) {
        entry.lock.lock();
        try {
            RefTable.Given given = parts.refs().given(entry);
            if (given == null) {
                // Another request has opened it meanwhile.
                LinchpinSession opened = parts.refs().session(entry);
                session = opened != null && opened.isValid() && requestedIds.contains(opened.getId()) ? opened : null;
                return;
            }
            byte[] plain = parts.seal().open(given.copy());
            SessionCodec.Head head = plain == null ? null : parts.codec().head(plain);
            if (head == null || !requestedIds.contains(head.id())) {
                parts.counters().foreign.increment();
                return;
            }
            SessionCodec.Read read = parts.codec().read(plain);
            LinchpinSession restored = new LinchpinSession(parts.sessions(), head.id(), head.created(), now, head.maxInactive(), false);
            restored.restore(read.attributes(), field.ref(), read.digest(), given.at());
            // Before the copy is gone: a request that finds no copy must find the session.
            parts.sessions().restore(restored);
            if (parts.refs().opened(entry, given, restored)) {
                parts.counters().restored.increment();
                session = restored;
            } else {
                restored.detach();
            }
        } catch (IOException failure) {
            parts.counters().refused.increment();
            LOG.log(System.Logger.Level.WARNING, "the copy of " + field.ref() + " can't be restored: its client has no session", failure);
        } finally {
            entry.lock.unlock();
        }
    }

    /** Returns the session, or begins one. */
    LinchpinSession session(boolean create) {
        isUsed = true;
        if (session != null && session.isValid()) {
            return session;
        }
        if (!create) {
            return null;
        }
        if (response.isCommitted()) {
            throw new IllegalStateException("a session can't begin after the header section of the response was sent");
        }
        ended = session;
        session = parts.sessions().create(System.currentTimeMillis());
        return session;
    }

    String changeSessionId() {
        if (session == null || !session.isValid()) {
            throw new IllegalStateException("there is no session");
        }
        parts.sessions().rename(session);
        return session.getId();
    }

    String requestedId() {
        return requestedIds.isEmpty() ? null : requestedIds.get(0);
    }

    boolean isRequestedIdValid() {
        return session != null && session.isValid() && requestedIds.contains(session.getId());
    }

    // The response.

    /** Puts into the header section what is to be said about the session. Called before each step that may send it; the last one counts. */
    void beforeCommit() {
        if (response.isCommitted()) {
            return;
        }
        boolean isValid = session != null && session.isValid();
        if (isValid && !session.getId().equals(cookieId)) {
            response.addCookie(cookie(session.getId()));
            cookieId = session.getId();
        }
        if (entry == null) {
            return;
        }
        entry.lock.lock();
        try {
            if (isValid) {
                save();
            } else {
                noteEnd(session);
            }
        } finally {
            entry.lock.unlock();
        }
    }

    private void save() {
        long now = System.currentTimeMillis();
        RefTable refs = parts.refs();
        Version own = refs.version(entry);
        boolean isOvertaken = refs.overtakes(entry) != overtakes || own != null && own.term() > field.term();
        boolean isElsewhere = known == null || refs.session(entry) != session || !known.equals(own);
        boolean isDue = !isOvertaken && (isElsewhere || session.isSaveOld(now));
        if (!isDue && !(isUsed && session.mayHaveChanged())) {
            return;
        }
        SessionCodec.Written written = write();
        boolean isChanged = written == null || !Arrays.equals(written.digest(), session.digest());
        if (!isChanged && !isDue) {
            return;
        }
        if (session.isEmpty() && session.ref() == null) {
            noteEnd(ended);
            return;
        }
        Version version = refs.next(entry, field);
        String copy = written == null ? null : encode(written.bytes(), version);
        boolean isSaid = copy == null ? sayDropped(version) : say(SAVE, copy, parts.counters().saves);
        if (isSaid && refs.saved(entry, overtakes, version, session)) {
            session.saved(field.ref(), written == null ? null : written.digest(), now);
            known = version;
        } else {
            // The next response has to save it.
            session.setChanged();
            if (isOvertaken) {
                parts.counters().overtaken.increment();
            }
        }
    }

    private SessionCodec.Written write() {
        try {
            return parts.codec().write(session);
        } catch (IOException failure) {
            parts.counters().notSerializable.increment();
            LOG.log(System.Logger.Level.WARNING, "session " + field.ref() + " can't be serialized: its copy is dropped", failure);
            return null;
        }
    }

    /** Returns the field's value, or null if it is too long. */
    private String encode(byte[] plain, Version version) {
        byte[] sealed = parts.seal().seal(plain);
        int ttl = session.getMaxInactiveInterval();
        String value = ":" + Base64.getEncoder().encodeToString(sealed) + ":;term=" + version.term() + ";seq=" + version.seq()
                + ";ttl=" + (ttl > 0 ? ttl : LONG);
        int port = request.getLocalPort();
        if (value.length() + SAVE.length() + 4 <= parts.headLimit().room(response, port)) {
            return value;
        }
        parts.counters().tooLong.increment();
        if (HAS_WARNED.compareAndSet(false, true)) {
            LOG.log(System.Logger.Level.WARNING, "The copy of a session takes {0} bytes, and does not fit into the header section of a response,"
                    + " for which port {1} allows {2} bytes: this session would not survive its server. In Tomcat, set"
                    + " maxHttpResponseHeaderSize=\"49152\" at the Connector. This is logged once, and counted.",
                    String.valueOf(value.length()), String.valueOf(port), String.valueOf(parts.headLimit().limit(port)));
        }
        return null;
    }

    /** Says that the session of this ref has ended, if it has and Linchpin does not know it. */
    private void noteEnd(LinchpinSession mine) {
        RefTable refs = parts.refs();
        LinchpinSession last = refs.session(entry);
        boolean hasEnded = last != null && !last.isValid();
        boolean isUnheard = refs.isDropped(entry) && !refs.version(entry).equals(known) && refs.overtakes(entry) == overtakes;
        // It was saved under another ref only: whether Linchpin still has that copy, this server can't know.
        boolean isFromElsewhere = last == null && !refs.isDropped(entry) && mine != null && !mine.isValid() && mine.ref() != null;
        if (hasEnded || isUnheard || isFromElsewhere) {
            Version version = refs.next(entry, field);
            if (sayDropped(version)) {
                refs.saved(entry, overtakes, version, null);
                known = version;
            }
        }
    }

    private boolean sayDropped(Version version) {
        return say(DROP, "?1;term=" + version.term() + ";seq=" + version.seq(), parts.counters().drops);
    }

    /** Sets one of the two fields. Returns false if the response has the other one. */
    private boolean say(String name, String value, LongAdder counter) {
        if (said != null && !said.equals(name)) {
            return false;
        }
        response.setHeader(name, value);
        said = name;
        counter.increment();
        return true;
    }

    /** The application has removed all fields: they have to be put in again. */
    void reset() {
        said = null;
        cookieId = arrivedId;
        known = field == null ? null : field.version();
    }

    private Cookie cookie(String id) {
        SessionCookieConfig config = parts.sessions().context().getSessionCookieConfig();
        Cookie cookie = new Cookie(parts.settings().cookie(), id);
        config.getAttributes().forEach(cookie::setAttribute);
        String path = config.getPath() == null ? request.getContextPath() : config.getPath();
        cookie.setPath(path == null || path.isEmpty() ? "/" : path);
        cookie.setHttpOnly(true);
        cookie.setSecure(config.isSecure() || request.isSecure());
        return cookie;
    }

    // The end.

    /** Begins another part of the request, such as its error page. */
    void again() {
        if (isReleased && entry != null) {
            parts.refs().admitAgain(entry);
        }
        isReleased = false;
    }

    /** Ends the request. Notes what changed too late for its response. */
    void finish() {
        if (isReleased) {
            return;
        }
        isReleased = true;
        if (entry == null) {
            return;
        }
        if (response.isCommitted() && isUsed && session != null && session.isValid() && session.mayHaveChanged()) {
            noteLateChange();
        }
        parts.refs().release(entry);
    }

    private void noteLateChange() {
        entry.lock.lock();
        try {
            byte[] digest = parts.codec().write(session).digest();
            if (!Arrays.equals(digest, session.digest())) {
                parts.counters().afterCommit.increment();
                session.setChanged();
            }
        } catch (IOException notSerializable) {
            // Reported when it is to be saved.
            return;
        } finally {
            entry.lock.unlock();
        }
    }
}
