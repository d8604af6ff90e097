package dev.linchpin.session;

import jakarta.servlet.FilterConfig;
import jakarta.servlet.ServletException;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.stream.Stream;

/**
 * The filter's settings. Each one may be an init parameter of the filter ({@code secret}), a context parameter or a system
 * property ({@code linchpin.session.secret}), or an environment variable ({@code LINCHPIN_SESSION_SECRET}); the first one counts.
 *
 * @param secrets the one that seals copies; then an older one, whose copies still open
 * @param allow classes that a copy may contain, beside those of {@link SessionCodec#PLATFORM}
 * @param listeners names of the application's session listeners
 * @param cookie the name of the session cookie
 * @param waitingMemory bytes of given copies that wait for their first request
 * @param maxCopy the longest copy that is taken, in bytes
 * @param headLimit the longest header section of a response, in bytes; 0: as the container says
 */
record Settings(List<String> secrets, String allow, List<String> listeners, String cookie, long waitingMemory, int maxCopy, int headLimit) {
    static Settings read(FilterConfig config) throws ServletException {
        // Taken as they are: a secret may contain anything.
        List<String> secrets = Stream.of("secret", "old-secret").map(name -> text(config, name, "")).filter(text -> !text.isEmpty()).toList();
        if (text(config, "secret", "").isEmpty()) {
            throw new ServletException("The session filter needs a secret of " + Seal.SHORTEST_SECRET + " bytes or more, the same on every"
                    + " server of the application: set LINCHPIN_SESSION_SECRET in the environment (openssl rand -hex 32 makes one)");
        }
        String cookie = config.getServletContext().getSessionCookieConfig().getName();
        return new Settings(secrets, text(config, "allow", ""), list(text(config, "listeners", "")),
                text(config, "cookie", cookie == null ? "JSESSIONID" : cookie), number(config, "waiting-memory", 64 << 20),
                number(config, "max-copy", 1 << 20), number(config, "head-limit", 0));
    }

    private static String text(FilterConfig config, String name, String otherwise) {
        String full = "linchpin.session." + name;
        String[] places = {config.getInitParameter(name), config.getServletContext().getInitParameter(full), System.getProperty(full),
                System.getenv(full.toUpperCase(Locale.ROOT).replaceAll("[.-]", "_"))};
        return Arrays.stream(places).filter(value -> value != null && !value.isBlank()).map(String::strip).findFirst().orElse(otherwise);
    }

    private static List<String> list(String text) {
        return Arrays.stream(text.split(",")).map(String::strip).filter(part -> !part.isEmpty()).toList();
    }

    /** A number of bytes. */
    private static int number(FilterConfig config, String name, int otherwise) throws ServletException {
        String text = text(config, name, null);
        if (text == null) {
            return otherwise;
        }
        try {
            int number = Integer.parseInt(text);
            if (number >= 0) {
                return number;
            }
        } catch (NumberFormatException notANumber) {
            // Reported below.
        }
        throw new ServletException("The session filter's parameter `" + name + "` must be a number of bytes, not `" + text + "`");
    }
}
