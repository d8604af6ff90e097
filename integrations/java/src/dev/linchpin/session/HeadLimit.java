package dev.linchpin.session;

import jakarta.servlet.http.HttpServletResponse;
import java.lang.management.ManagementFactory;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import javax.management.JMException;
import javax.management.MBeanServer;
import javax.management.ObjectName;

/**
 * How long the header section of a response may be. A container that is given a longer one responds with an error, or not at all,
 * so a copy that does not fit must not be added.
 */
final class HeadLimit {
    /** What Tomcat and Jetty allow by default. */
    private static final int DEFAULT = 8192;
    /** The status line, and what containers add themselves. */
    private static final int RESERVE = 1024;

    private final int configured;
    private final Map<Integer, Integer> byPort = new ConcurrentHashMap<>();

    /** @param configured bytes, or 0 to ask the container */
    HeadLimit(int configured) {
        this.configured = configured;
    }

    /** Returns how many more bytes fit into the response to a request that came to this port. */
    int room(HttpServletResponse response, int port) {
        int used = RESERVE;
        for (String name : response.getHeaderNames()) {
            // A field of the filter's own will be replaced.
            if (name.regionMatches(true, 0, SessionField.NAME, 0, SessionField.NAME.length())) {
                continue;
            }
            for (String value : response.getHeaders(name)) {
                used += name.length() + value.length() + 4;
            }
        }
        return limit(port) - used;
    }

    int limit(int port) {
        return configured > 0 ? configured : byPort.computeIfAbsent(port, HeadLimit::ask);
    }

    /** Asks Tomcat, which describes its connectors over JMX. */
    private static int ask(int port) {
        try {
            MBeanServer server = ManagementFactory.getPlatformMBeanServer();
            for (ObjectName connector : server.queryNames(new ObjectName("*:type=ProtocolHandler,*"), null)) {
                if (Integer.valueOf(port).equals(server.getAttribute(connector, "localPort"))) {
                    Object limit = server.getAttribute(connector, "maxHttpResponseHeaderSize");
                    return limit instanceof Integer bytes && bytes > 0 ? bytes : DEFAULT;
                }
            }
        } catch (JMException | RuntimeException unknown) {
            // Another container, or one that describes nothing.
            return DEFAULT;
        }
        return DEFAULT;
    }
}
