package dev.linchpin.session;

import static dev.linchpin.session.Check.equal;
import static dev.linchpin.session.Check.holds;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** The parts that need no server: seal, field, versions, serialisation. */
final class PartsTest {
    private static final String OLD = "an old secret of more than 32 bytes";
    private static final String NEW = "a new secret, of more than 32 bytes";
    private static final byte[] TEXT = "the session".getBytes();

    private PartsTest() { }

    private static RefTable table() {
        return new RefTable(1000, 10);
    }

    private static SessionField field(long term, Long seq) {
        return new SessionField("r", term, seq, false);
    }

    private static LinchpinSession session() {
        Sessions sessions = new Sessions(null, new Listeners(List.of()), 1800);
        return sessions.create(0);
    }

    private static SessionCodec codec(String allow) {
        return new SessionCodec(allow, new Counters(null, null));
    }

    /** Saves under a ref, as a response does. */
    private static Version save(RefTable refs, SessionField field, LinchpinSession session) {
        RefTable.Entry entry = refs.admit(field, 0);
        Version version = refs.next(entry, field);
        holds(refs.saved(entry, refs.overtakes(entry), version, session), version);
        session.saved(field.ref(), new byte[0], 0);
        refs.release(entry);
        return version;
    }

    public static void main(String[] arguments) {
        Check check = new Check();
        check.that("a copy opens with the secret that sealed it, also when that is no longer the first", () -> {
            byte[] copy = new Seal(List.of(OLD)).seal(TEXT);
            equal(new Seal(List.of(NEW, OLD)).open(copy), TEXT);
            equal(new Seal(List.of(NEW)).open(copy), null);
        });
        check.that("no byte of a copy can be changed, added or left out", () -> {
            Seal seal = new Seal(List.of(OLD));
            byte[] copy = seal.seal(TEXT);
            for (int at = 0; at < copy.length; at++) {
                byte[] forged = copy.clone();
                forged[at] ^= 1;
                equal(seal.open(forged), null);
                equal(seal.open(java.util.Arrays.copyOf(copy, at)), null);
            }
            equal(seal.open(java.util.Arrays.copyOf(copy, copy.length + 1)), null);
        });
        check.that("the same session is never sealed to the same bytes", () -> {
            Seal seal = new Seal(List.of(OLD));
            holds(!java.util.Arrays.equals(seal.seal(TEXT), seal.seal(TEXT)), "the same");
        });
        check.that("a short secret is refused, and not told", () -> {
            try {
                new Seal(List.of("short and secret"));
            } catch (IllegalArgumentException refused) {
                holds(!refused.getMessage().contains("short and"), refused.getMessage());
                return;
            }
            throw new AssertionError("it was taken");
        });
        check.that("the field is parsed in any order and with unknown parameters, and otherwise refused", () -> {
            equal(SessionField.parse(List.of("ref=\"a-b_1\";term=3;seq=17")), new SessionField("a-b_1", 3, 17L, false));
            equal(SessionField.parse(List.of("ref=\"a\"; seq=1 ; x=\"y\";term=2")), null);
            equal(SessionField.parse(List.of("ref=\"a\";seq=1;x=y;dropped;z;term=2")), new SessionField("a", 2, 1L, true));
            equal(SessionField.parse(List.of("ref=\"a\";term=3")), new SessionField("a", 3, null, false));
            for (String wrong : List.of("", "ref=a;term=1", "ref=\"\";term=1", "ref=\"a\"", "ref=\"a\";term=-1",
                    "ref=\"a\";term=1234567890123456", "ref=\"a b\";term=1", "ref=\"a\";term=1;seq=", "ref=\"" + "a".repeat(65) + "\";term=1",
                    "ref=\"a\";term=1" + ";x".repeat(500))) {
                equal(SessionField.parse(List.of(wrong)), null);
            }
            equal(SessionField.parse(List.of("ref=\"a\";term=1", "ref=\"a\";term=1")), null);
        });
        check.that("a request waits for the state that it needs, and for no other", () -> {
            RefTable refs = table();
            equal(refs.admit(field(1, 1L), 0), null);
            equal(save(refs, field(1, null), session()), new Version(1, 1));
            holds(refs.admit(field(1, 1L), 0) != null, "a want");
            equal(refs.admit(field(1, 2L), 0), null);
            equal(refs.admit(field(2, 1L), 0), null);
        });
        check.that("the seq counts on through drops, terms and other sessions", () -> {
            RefTable refs = table();
            equal(save(refs, field(1, null), session()), new Version(1, 1));
            equal(refs.delete("r", new Version(1, 2), 0), null);
            equal(save(refs, new SessionField("r", 1, 2L, true), session()), new Version(1, 3));
            equal(refs.put("r", new Version(4, 9), TEXT, 0, 1), null);
            equal(save(refs, field(4, 9L), session()), new Version(4, 10));
        });
        check.that("the highest version wins, in whichever order puts, drops and saves arrive", () -> {
            Random random = new Random(7);
            for (int round = 0; round < 2000; round++) {
                RefTable refs = table();
                Version highest = new Version(0, 0);
                boolean isDropped = false;
                for (int step = 0; step < 12; step++) {
                    Version version = new Version(1 + random.nextInt(3), 1 + random.nextInt(4));
                    int order = version.compareTo(highest);
                    if (random.nextBoolean()) {
                        boolean isTaken = refs.put("r", version, TEXT, 0, 1) == null;
                        equal(isTaken, order > 0 || order == 0 && !isDropped);
                        isDropped &= order <= 0;
                    } else {
                        boolean isTaken = refs.delete("r", version, 0) == null;
                        equal(isTaken, order >= 0);
                        isDropped |= order >= 0;
                    }
                    highest = order > 0 ? version : highest;
                    RefTable.Entry entry = refs.admit(field(highest.term(), null), 0);
                    equal(refs.version(entry), highest);
                    equal(refs.isDropped(entry), isDropped);
                    equal(refs.given(entry) == null, isDropped);
                    refs.release(entry);
                }
            }
        });
        check.that("a request that a move has overtaken does not write to the memory of its ref", () -> {
            RefTable refs = table();
            save(refs, field(1, null), session());
            RefTable.Entry slow = refs.admit(field(1, 1L), 0);
            int overtakes = refs.overtakes(slow);
            equal(refs.put("r", new Version(3, 5), TEXT, 0, 1), null);
            equal(refs.next(slow, field(1, 1L)), new Version(1, 6));
            equal(refs.saved(slow, overtakes, new Version(1, 6), session()), false);
            equal(refs.version(slow), new Version(3, 5));
        });
        check.that("a request during which its session was dropped does not bring it back", () -> {
            RefTable refs = table();
            save(refs, field(1, null), session());
            RefTable.Entry slow = refs.admit(field(1, 1L), 0);
            int overtakes = refs.overtakes(slow);
            equal(refs.delete("r", new Version(1, 2), 0), null);
            equal(refs.saved(slow, overtakes, refs.next(slow, field(1, 1L)), session()), false);
            holds(refs.isDropped(slow), "it is back");
        });
        check.that("a memory of more than one term ago is forgotten", () -> {
            RefTable refs = table();
            save(refs, field(1, null), session());
            equal(refs.version(refs.admit(field(2, null), 0)), new Version(1, 1));
            equal(refs.version(refs.admit(field(3, null), 0)), null);
        });
        check.that("a session whose time is over is not found, and its end is the next state of its ref", () -> {
            RefTable refs = table();
            Sessions sessions = new Sessions(null, new Listeners(List.of()), 10);
            LinchpinSession session = sessions.create(0);
            save(refs, field(1, null), session);
            holds(sessions.find(session.getId(), 9_999, refs) == session, "nothing");
            equal(sessions.find(session.getId(), 10_000, refs), null);
            RefTable.Entry entry = refs.admit(field(1, 1L), 0);
            holds(refs.isDropped(entry), "the session");
            equal(refs.version(entry), new Version(1, 2));
        });
        check.that("copies that wait are bounded: the oldest goes first, and is wanted again", () -> {
            RefTable refs = table();
            for (int ref = 0; ref < 100; ref++) {
                equal(refs.put("r" + ref, new Version(1, 1), new byte[100], 0, 1), null);
                holds(refs.waitingBytes() <= 1000, refs.waitingBytes());
            }
            equal(refs.waitingCopies(), 10);
            equal(refs.evictedCopies(), 90L);
            equal(refs.size(), 10);
            equal(refs.admit(new SessionField("r0", 1, 1L, false), 0), null);
            holds(refs.admit(new SessionField("r99", 1, 1L, false), 0) != null, "a want");
        });
        check.that("drops and copies are forgotten in time, and never while a request uses them", () -> {
            RefTable refs = table();
            for (int ref = 0; ref < 100; ref++) {
                refs.delete("d" + ref, new Version(1, 1), 0);
            }
            refs.put("c", new Version(1, 1), TEXT, 0, 50);
            RefTable.Entry used = refs.admit(new SessionField("c", 1, 1L, false), 0);
            refs.sweep(100);
            equal(refs.size(), 11);
            refs.release(used);
            refs.sweep(100);
            equal(refs.size(), 10);
            refs.sweep(10_000_000);
            equal(refs.size(), 0);
            equal(refs.waitingBytes(), 0L);
        });
        check.that("concurrent requests get different versions, and the highest holds the newest state", () -> {
            RefTable refs = table();
            List<Long> states = new ArrayList<>();
            LinchpinSession session = session();
            ExecutorService threads = Executors.newFixedThreadPool(8);
            List<Future<Version>> saves = new ArrayList<>();
            for (int n = 0; n < 500; n++) {
                saves.add(threads.submit(() -> {
                    RefTable.Entry entry = refs.admit(field(1, null), 0);
                    entry.lock.lock();
                    try {
                        Version version = refs.next(entry, field(1, null));
                        states.add(version.seq());
                        refs.saved(entry, refs.overtakes(entry), version, session);
                        return version;
                    } finally {
                        entry.lock.unlock();
                        refs.release(entry);
                    }
                }));
            }
            for (Future<Version> save : saves) {
                save.get();
            }
            threads.shutdown();
            for (int n = 0; n < 500; n++) {
                equal(states.get(n), n + 1L);
            }
        });
        check.that("a session is read as it was written, with objects that attributes share", () -> {
            LinchpinSession session = session();
            List<String> shared = new ArrayList<>(List.of("a", "b"));
            session.setAttribute("one", shared);
            session.setAttribute("two", Map.of("list", shared));
            session.setAttribute("time", java.time.Instant.EPOCH);
            session.setAttribute("numbers", new int[] {1, 2});
            session.setAttribute("kind", Thread.State.NEW);
            session.setAttribute("table", new java.util.concurrent.ConcurrentHashMap<>(Map.of("k", 1)));
            SessionCodec codec = codec("java.lang.Thread$State");
            SessionCodec.Written written = codec.write(session);
            SessionCodec.Read read = codec.read(written.bytes());
            equal(read.head().id(), session.getId());
            equal(read.attributes().get("one"), shared);
            holds(((Map<?, ?>) read.attributes().get("two")).get("list") == read.attributes().get("one"), "two lists");
            equal(read.attributes().get("numbers"), new int[] {1, 2});
            equal(read.attributes().get("kind"), Thread.State.NEW);
            equal(read.digest(), written.digest());
            equal(codec.write(session).digest(), written.digest());
            shared.add("c");
            holds(!java.util.Arrays.equals(codec.write(session).digest(), written.digest()), "a change in place was not seen");
        });
        check.that("what could not be read is not written, also deep inside, and nothing else is lost", () -> {
            LinchpinSession session = session();
            session.setAttribute("file", new java.io.File("/"));
            session.setAttribute("files", List.of(List.of(new java.io.File("/"))));
            session.setAttribute("thread", new TestApplication.Connection());
            session.setAttribute("threads", List.of(new TestApplication.Connection()));
            session.setAttribute("basket", new TestApplication.Basket());
            session.setAttribute("name", "anna");
            equal(codec("").read(codec("").write(session).bytes()).attributes().keySet(), java.util.Set.of("name"));
            SessionCodec codec = codec("dev.linchpin.session.*");
            equal(codec.read(codec.write(session).bytes()).attributes().keySet(), java.util.Set.of("name", "basket"));
        });
        check.that("a class that is not allowed is not read, though another server wrote it", () -> {
            LinchpinSession session = session();
            session.setAttribute("file", new java.io.File("/"));
            byte[] bytes = codec("java.io.File").write(session).bytes();
            try {
                codec("").read(bytes);
            } catch (IOException refused) {
                return;
            }
            throw new AssertionError("it was read");
        });
        check.that("a session that requests keep changing is still written", () -> {
            LinchpinSession session = session();
            List<Integer> list = java.util.Collections.synchronizedList(new ArrayList<>(List.of(1)));
            List<Integer> plain = new ArrayList<>(List.of(1));
            session.setAttribute("list", list);
            session.setAttribute("plain", plain);
            boolean[] isOver = {false};
            Thread writer = new Thread(() -> {
                while (!isOver[0]) {
                    list.add(1);
                    plain.add(1);
                    if (plain.size() > 50) {
                        list.clear();
                        plain.clear();
                    }
                    Thread.yield();
                }
            });
            writer.start();
            int written = 0;
            for (int n = 0; n < 200; n++) {
                try {
                    codec("").write(session);
                    written++;
                } catch (IOException keptChanging) {
                    // Never half a session: the copy is dropped then.
                    continue;
                }
            }
            isOver[0] = true;
            writer.join();
            holds(written > 0, written);
        });
        check.run();
    }
}
