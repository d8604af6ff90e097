package dev.linchpin.session;

import java.util.concurrent.atomic.LongAdder;

/** Counts what the filter does, for JMX: {@code dev.linchpin.session:type=SessionFilter,context="…"}. */
final class Counters implements CountersMXBean {
    final LongAdder saves = new LongAdder();
    final LongAdder drops = new LongAdder();
    final LongAdder wants = new LongAdder();
    final LongAdder taken = new LongAdder();
    final LongAdder restored = new LongAdder();
    final LongAdder foreign = new LongAdder();
    final LongAdder notAuthentic = new LongAdder();
    final LongAdder refused = new LongAdder();
    final LongAdder overtaken = new LongAdder();
    final LongAdder tooLong = new LongAdder();
    final LongAdder notSerializable = new LongAdder();
    final LongAdder afterCommit = new LongAdder();

    private final Sessions sessions;
    private final RefTable refs;

    Counters(Sessions sessions, RefTable refs) {
        this.sessions = sessions;
        this.refs = refs;
    }

    @Override
    public int getSessions() {
        return sessions.size();
    }

    @Override
    public int getRefs() {
        return refs.size();
    }

    @Override
    public int getWaitingCopies() {
        return refs.waitingCopies();
    }

    @Override
    public long getWaitingBytes() {
        return refs.waitingBytes();
    }

    @Override
    public long getEvictedCopies() {
        return refs.evictedCopies();
    }

    @Override
    public long getSaves() {
        return saves.sum();
    }

    @Override
    public long getDrops() {
        return drops.sum();
    }

    @Override
    public long getWants() {
        return wants.sum();
    }

    @Override
    public long getTaken() {
        return taken.sum();
    }

    @Override
    public long getRestored() {
        return restored.sum();
    }

    @Override
    public long getForeign() {
        return foreign.sum();
    }

    @Override
    public long getNotAuthentic() {
        return notAuthentic.sum();
    }

    @Override
    public long getRefused() {
        return refused.sum();
    }

    @Override
    public long getOvertaken() {
        return overtaken.sum();
    }

    @Override
    public long getTooLong() {
        return tooLong.sum();
    }

    @Override
    public long getNotSerializable() {
        return notSerializable.sum();
    }

    @Override
    public long getAfterCommit() {
        return afterCommit.sum();
    }
}
