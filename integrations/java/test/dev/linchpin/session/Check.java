package dev.linchpin.session;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;

/** Runs named tests one after the other, and exits with 1 if one of them fails. */
final class Check {
    /** A test; it may throw anything. */
    interface Test {
        void run() throws Exception;
    }

    private final Map<String, Test> tests = new LinkedHashMap<>();

    void that(String behaviour, Test test) {
        tests.put(behaviour, test);
    }

    void run() {
        int failures = 0;
        for (Map.Entry<String, Test> test : tests.entrySet()) {
            try {
                test.getValue().run();
                System.out.println("ok      " + test.getKey());
            } catch (Exception | AssertionError failure) {
                failures++;
                System.out.println("FAILED  " + test.getKey());
                failure.printStackTrace(System.out);
            }
        }
        System.out.println(tests.size() - failures + " passed, " + failures + " failed");
        System.exit(failures == 0 ? 0 : 1);
    }

    static void equal(Object found, Object expected) {
        if (!Objects.deepEquals(found, expected)) {
            throw new AssertionError("found " + found + ", expected " + expected);
        }
    }

    static void holds(boolean condition, Object found) {
        if (!condition) {
            throw new AssertionError("found " + found);
        }
    }

    static void until(String what, Callable<Boolean> condition) throws Exception {
        long end = System.nanoTime() + 20_000_000_000L;
        while (!condition.call()) {
            if (System.nanoTime() > end) {
                throw new AssertionError("waited in vain: " + what);
            }
            Thread.sleep(5);
        }
    }
}
