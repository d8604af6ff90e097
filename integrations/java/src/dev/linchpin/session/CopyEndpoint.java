package dev.linchpin.session;

import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Collections;

/** Where Linchpin gives copies, and says that a session has ended: the well-known path. A copy is kept only if its seal opens. */
final class CopyEndpoint {
    static final String PATH = "/.well-known/linchpin/session";

    private final Parts parts;

    CopyEndpoint(Parts parts) {
        this.parts = parts;
    }

    void serve(HttpServletRequest request, HttpServletResponse response) throws IOException {
        response.setContentLength(0);
        response.setHeader("Cache-Control", "no-store");
        boolean isPut = request.getMethod().equals("PUT");
        if (!isPut && !request.getMethod().equals("DELETE")) {
            response.setHeader("Allow", "PUT, DELETE");
            response.setStatus(HttpServletResponse.SC_METHOD_NOT_ALLOWED);
            return;
        }
        SessionField field = SessionField.parse(Collections.list(request.getHeaders(SessionField.NAME)));
        if (field == null || field.seq() == null) {
            response.setStatus(HttpServletResponse.SC_BAD_REQUEST);
            return;
        }
        if (isPut) {
            put(request, response, field);
        } else {
            respond(response, field, parts.refs().delete(field.ref(), field.version(), System.currentTimeMillis()));
        }
    }

    private void put(HttpServletRequest request, HttpServletResponse response, SessionField field) throws IOException {
        int most = parts.settings().maxCopy();
        byte[] copy = request.getContentLengthLong() > most ? null : request.getInputStream().readNBytes(most + 1);
        if (copy == null || copy.length > most) {
            response.setHeader("Connection", "close");
            response.setStatus(HttpServletResponse.SC_REQUEST_ENTITY_TOO_LARGE);
            return;
        }
        byte[] plain = parts.seal().open(copy);
        SessionCodec.Head head = plain == null ? null : parts.codec().head(plain);
        if (head == null) {
            parts.counters().notAuthentic.increment();
            response.setStatus(422);
            return;
        }
        long now = System.currentTimeMillis();
        // A server that keeps a copy for another is told of it again only after a quarter of the session's time.
        long until = head.maxInactive() > 0 ? now + head.maxInactive() * 1250L : Long.MAX_VALUE;
        Version own = parts.refs().put(field.ref(), field.version(), copy, now, until);
        if (own == null) {
            parts.counters().taken.increment();
        }
        respond(response, field, own);
    }

    private static void respond(HttpServletResponse response, SessionField field, Version own) {
        if (own == null) {
            response.setStatus(HttpServletResponse.SC_NO_CONTENT);
        } else {
            response.setHeader(SessionField.NAME, SessionField.of(field.ref(), own));
            response.setStatus(HttpServletResponse.SC_CONFLICT);
        }
    }
}
