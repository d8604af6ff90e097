package dev.linchpin.session;

import jakarta.servlet.ServletOutputStream;
import jakarta.servlet.WriteListener;
import java.io.IOException;

/** Writes to the container's stream, after the session was saved if that may send the header section. */
final class SessionOutputStream extends ServletOutputStream {
    private final ServletOutputStream out;
    private final SessionResponse response;

    SessionOutputStream(ServletOutputStream out, SessionResponse response) {
        this.out = out;
        this.response = response;
    }

    @Override
    public void write(int b) throws IOException {
        response.beforeWriting(1);
        out.write(b);
    }

    @Override
    public void write(byte[] bytes) throws IOException {
        write(bytes, 0, bytes.length);
    }

    @Override
    public void write(byte[] bytes, int offset, int length) throws IOException {
        response.beforeWriting(length);
        out.write(bytes, offset, length);
    }

    @Override
    public void print(String text) throws IOException {
        // At most: the container encodes it.
        response.beforeWriting(text == null ? 4 : text.length() * 3L);
        out.print(text);
    }

    @Override
    public void println(String text) throws IOException {
        print(text);
        println();
    }

    @Override
    public void println() throws IOException {
        response.beforeWriting(2);
        out.println();
    }

    @Override
    public void flush() throws IOException {
        response.beforeSending();
        out.flush();
    }

    @Override
    public void close() throws IOException {
        response.beforeSending();
        out.close();
    }

    @Override
    public boolean isReady() {
        return out.isReady();
    }

    @Override
    public void setWriteListener(WriteListener listener) {
        out.setWriteListener(listener);
    }
}
