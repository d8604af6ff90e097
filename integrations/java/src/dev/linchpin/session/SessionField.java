package dev.linchpin.session;

import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The field {@code Linchpin-Session}: which session a message is about, and which version of it Linchpin knows.
 *
 * @param ref names the session
 * @param seq null if Linchpin holds no copy
 * @param dropped whether the session has ended at this version
 */
record SessionField(String ref, long term, Long seq, boolean dropped) {
    static final String NAME = "Linchpin-Session";

    private static final Pattern FIELD = Pattern.compile("ref=\"([A-Za-z0-9_-]{1,64})\"((?: *; *[a-z*][a-z0-9_.*-]*(?:=[^;\"]{1,32})?)*) *");
    private static final Pattern NUMBER = Pattern.compile("[0-9]{1,15}");

    /** Parses the values of all fields of this name. Returns null if there is not exactly one, or if it is malformed. */
    static SessionField parse(List<String> values) {
        if (values.size() != 1 || values.get(0).length() > 512) {
            return null;
        }
        Matcher field = FIELD.matcher(values.get(0));
        if (!field.matches()) {
            return null;
        }
        Long term = null;
        Long seq = null;
        boolean dropped = false;
        for (String parameter : field.group(2).split(";")) {
            String[] parts = parameter.strip().split("=", 2);
            String value = parts.length == 2 ? parts[1] : null;
            switch (parts[0]) {
                case "term", "seq" -> {
                    if (value == null || !NUMBER.matcher(value).matches()) {
                        return null;
                    }
                    if (parts[0].equals("term")) {
                        term = Long.valueOf(value);
                    } else {
                        seq = Long.valueOf(value);
                    }
                }
                case "dropped" -> dropped = value == null || value.equals("?1");
                default -> { }
            }
        }
        return term == null ? null : new SessionField(field.group(1), term, seq, dropped && seq != null);
    }

    static String of(String ref, Version version) {
        return "ref=\"" + ref + "\";term=" + version.term() + ";seq=" + version.seq();
    }

    /** Returns the version that Linchpin knows, or null if it holds no copy. */
    Version version() {
        return seq == null ? null : new Version(term, seq);
    }
}
