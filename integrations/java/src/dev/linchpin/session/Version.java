package dev.linchpin.session;

/**
 * The version of a session's state. Linchpin raises the term with each move to another server; the server that has the session
 * raises the seq with each state. The higher version is the newer state, in whichever order messages arrive.
 */
record Version(long term, long seq) implements Comparable<Version> {
    @Override
    public int compareTo(Version other) {
        int terms = Long.compare(term, other.term);
        return terms != 0 ? terms : Long.compare(seq, other.seq);
    }

    boolean isLowerThan(Version other) {
        return compareTo(other) < 0;
    }
}
