package dev.linchpin.session;

import jakarta.servlet.ServletOutputStream;
import jakarta.servlet.http.HttpServletResponse;
import jakarta.servlet.http.HttpServletResponseWrapper;
import java.io.IOException;
import java.io.PrintWriter;

/** The response as the application sees it: the session is saved before anything that may send the header section. */
final class SessionResponse extends HttpServletResponseWrapper {
    private final Exchange exchange;
    private ServletOutputStream stream;
    private PrintWriter writer;
    /** Bytes that the application has written, or more: the header section is sent when they fill the buffer. */
    private long written;
    private long length = Long.MAX_VALUE;

    SessionResponse(HttpServletResponse response, Exchange exchange) {
        super(response);
        this.exchange = exchange;
    }

    /** Called before this many bytes are written. */
    void beforeWriting(long bytes) {
        if (isCommitted()) {
            return;
        }
        written += bytes;
        // Some containers send a response as soon as it is as long as announced.
        if (written >= Math.min(getBufferSize(), length)) {
            exchange.beforeCommit();
        }
    }

    void beforeSending() {
        exchange.beforeCommit();
    }

    @Override
    public ServletOutputStream getOutputStream() throws IOException {
        if (stream == null) {
            stream = new SessionOutputStream(super.getOutputStream(), this);
        }
        return stream;
    }

    @Override
    public PrintWriter getWriter() throws IOException {
        if (writer == null) {
            PrintWriter inner = super.getWriter();
            writer = new SessionWriter(inner, this, getCharacterEncoding());
        }
        return writer;
    }

    @Override
    public void flushBuffer() throws IOException {
        exchange.beforeCommit();
        super.flushBuffer();
    }

    @Override
    public void sendError(int status) throws IOException {
        exchange.beforeCommit();
        super.sendError(status);
    }

    @Override
    public void sendError(int status, String message) throws IOException {
        exchange.beforeCommit();
        super.sendError(status, message);
    }

    @Override
    public void sendRedirect(String location) throws IOException {
        exchange.beforeCommit();
        super.sendRedirect(location);
    }

    @Override
    public void setContentLength(int bytes) {
        super.setContentLength(bytes);
        length = bytes;
    }

    @Override
    public void setContentLengthLong(long bytes) {
        super.setContentLengthLong(bytes);
        length = bytes;
    }

    @Override
    public void setHeader(String name, String value) {
        super.setHeader(name, value);
        noteLength(name, value);
    }

    @Override
    public void addHeader(String name, String value) {
        super.addHeader(name, value);
        noteLength(name, value);
    }

    @Override
    public void setIntHeader(String name, int value) {
        super.setIntHeader(name, value);
        noteLength(name, String.valueOf(value));
    }

    private void noteLength(String name, String value) {
        if ("content-length".equalsIgnoreCase(name)) {
            try {
                length = Long.parseLong(value);
            } catch (NumberFormatException notANumber) {
                // The container refuses it, or sends the response when the buffer is full.
                length = Long.MAX_VALUE;
            }
        }
    }

    @Override
    public void reset() {
        super.reset();
        written = 0;
        length = Long.MAX_VALUE;
        stream = null;
        writer = null;
        exchange.reset();
    }

    @Override
    public void resetBuffer() {
        super.resetBuffer();
        written = 0;
    }

    // Ids are in cookies only.

    @Override
    public String encodeURL(String url) {
        return url;
    }

    @Override
    public String encodeRedirectURL(String url) {
        return url;
    }
}
