package dev.linchpin.session;

import java.io.PrintWriter;

/** Writes to the container's writer, after the session was saved if that may send the header section. */
final class SessionWriter extends PrintWriter {
    private final PrintWriter inner;
    private final SessionResponse response;
    private final boolean isUtf8;
    private final boolean isOneByte;

    SessionWriter(PrintWriter inner, SessionResponse response, String encoding) {
        super(inner);
        this.inner = inner;
        this.response = response;
        isUtf8 = "UTF-8".equalsIgnoreCase(encoding);
        isOneByte = "ISO-8859-1".equalsIgnoreCase(encoding) || "US-ASCII".equalsIgnoreCase(encoding);
    }

    @Override
    public void write(int c) {
        response.beforeWriting(bytes((char) c));
        inner.write(c);
    }

    @Override
    public void write(char[] text, int offset, int length) {
        long bytes = 0;
        for (int at = offset; at < offset + length; at++) {
            bytes += bytes(text[at]);
        }
        response.beforeWriting(bytes);
        inner.write(text, offset, length);
    }

    @Override
    public void write(String text, int offset, int length) {
        long bytes = 0;
        for (int at = offset; at < offset + length; at++) {
            bytes += bytes(text.charAt(at));
        }
        response.beforeWriting(bytes);
        inner.write(text, offset, length);
    }

    /** How many bytes a character takes; in other encodings, at most. */
    private int bytes(char c) {
        if (isOneByte || isUtf8 && c < 0x80) {
            return 1;
        }
        if (isUtf8) {
            return c < 0x800 || Character.isSurrogate(c) ? 2 : 3;
        }
        return 4;
    }

    // PrintWriter's own would write past the methods above.

    @Override
    public void println() {
        write(System.lineSeparator());
    }

    @Override
    public void flush() {
        response.beforeSending();
        inner.flush();
    }

    @Override
    public void close() {
        response.beforeSending();
        inner.close();
    }

    @Override
    public boolean checkError() {
        response.beforeSending();
        return inner.checkError();
    }
}
