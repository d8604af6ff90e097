package dev.linchpin.session;

/** What the filter shows of itself over JMX. All but the first four count events since the start. */
public interface CountersMXBean {
    /** Sessions in memory. */
    int getSessions();

    /** Refs of which this server remembers a session, a copy or an end. */
    int getRefs();

    /** Copies that were given and that no request has opened yet. */
    int getWaitingCopies();

    /** Bytes of these copies. */
    long getWaitingBytes();

    /** Copies that were dropped because too many bytes waited. */
    long getEvictedCopies();

    /** Responses with a copy. */
    long getSaves();

    /** Responses that ended a session, or that dropped a copy because a newer one could not be sent. */
    long getDrops();

    /** Requests that did not run, since this server's memory was older than theirs. */
    long getWants();

    /** Copies that were given. */
    long getTaken();

    /** Copies that have become the session of a request. */
    long getRestored();

    /** Requests whose cookie named another session than the copy given for their ref. */
    long getForeign();

    /** Given copies whose seal did not open. */
    long getNotAuthentic();

    /** Copies that could not be restored: another format, or a class that is not allowed or not there. */
    long getRefused();

    /** Changes by requests during which the session had moved to another server. */
    long getOvertaken();

    /** States that were too long for the header section of a response. */
    long getTooLong();

    /** Attributes left out of a copy: not serializable, or of a class that is not allowed. */
    long getNotSerializable();

    /** Changes after the header section of the response was sent: they are in the copy of the next response. */
    long getAfterCommit();
}
