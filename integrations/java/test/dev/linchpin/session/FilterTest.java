package dev.linchpin.session;

import static dev.linchpin.session.Check.equal;
import static dev.linchpin.session.Check.holds;

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The filter in real Tomcats, whose other side is played by these tests. */
final class FilterTest {
    private static final String SECRET = "0123456789abcdef0123456789abcdef";
    private static final Map<String, String> PARAMETERS = Map.of("linchpin.session.secret", SECRET, "linchpin.session.allow",
            "dev.linchpin.session.*");
    private static final Pattern SAVE = Pattern.compile(":([A-Za-z0-9+/=]*):;term=([0-9]+);seq=([0-9]+);ttl=([0-9]+)");
    private static final Pattern DROP = Pattern.compile("\\?1;term=([0-9]+);seq=([0-9]+)");
    private static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    private FilterTest() { }

    /** A response of a server. */
    private record Answer(HttpResponse<String> response) {
        int status() {
            return response.statusCode();
        }

        String text() {
            return response.body();
        }

        private Matcher field(String name, Pattern pattern) {
            List<String> values = response.headers().allValues(name);
            if (values.isEmpty()) {
                return null;
            }
            equal(values.size(), 1);
            Matcher matcher = pattern.matcher(values.get(0));
            holds(matcher.matches(), values);
            return matcher;
        }

        Version save() {
            Matcher save = field("linchpin-session-save", SAVE);
            return save == null ? null : new Version(Long.parseLong(save.group(2)), Long.parseLong(save.group(3)));
        }

        byte[] copy() {
            return Base64.getDecoder().decode(field("linchpin-session-save", SAVE).group(1));
        }

        Version drop() {
            Matcher drop = field("linchpin-session-drop", DROP);
            return drop == null ? null : new Version(Long.parseLong(drop.group(1)), Long.parseLong(drop.group(2)));
        }
    }

    /** A client with its cookie and its ref. It remembers the newest version, as Linchpin does. */
    private static final class Client {
        final String ref = UUID.randomUUID().toString();
        String cookie;
        Version known;
        long term = 1;
        byte[] copy;

        Answer send(TestServer server, String method, String path) throws Exception {
            Answer answer = send(server, method, path, SessionField.NAME,
                    known == null ? "ref=\"" + ref + "\";term=" + term : SessionField.of(ref, known));
            if (answer.save() != null) {
                known = answer.save();
                copy = answer.copy();
            } else if (answer.drop() != null) {
                known = answer.drop();
            }
            return answer;
        }

        Answer send(TestServer server, String method, String path, String... fields) throws Exception {
            Answer answer = FilterTest.send(server, method, path, cookie, null, fields);
            List<String> cookies = answer.response().headers().allValues("set-cookie");
            holds(cookies.size() <= 1, cookies);
            if (!cookies.isEmpty()) {
                holds(cookies.get(0).contains("HttpOnly") && cookies.get(0).contains("Path=/"), cookies);
                cookie = cookies.get(0).split(";")[0];
            }
            return answer;
        }

        Answer get(TestServer server, String path) throws Exception {
            return send(server, "GET", path);
        }

        Answer post(TestServer server, String path) throws Exception {
            return send(server, "POST", path);
        }

        /** Moves to another server, which is given the newest copy. */
        void move(TestServer server) throws Exception {
            known = new Version(known.term() + 1, known.seq());
            equal(FilterTest.send(server, "PUT", CopyEndpoint.PATH, null, copy, SessionField.NAME, SessionField.of(ref, known)).status(), 204);
        }
    }

    private static Answer send(TestServer server, String method, String path, String cookie, byte[] body, String... fields) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + server.port() + path));
        request.method(method, body == null ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofByteArray(body));
        if (cookie != null) {
            request.header("Cookie", cookie);
        }
        for (int field = 0; field < fields.length; field += 2) {
            request.header(fields[field], fields[field + 1]);
        }
        return new Answer(HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString()));
    }

    private static long counter(TestServer server, String name) throws Exception {
        var mbeans = java.lang.management.ManagementFactory.getPlatformMBeanServer();
        for (var found : mbeans.queryNames(new javax.management.ObjectName("dev.linchpin.session:*"), null)) {
            if (found.getKeyProperty("context").contains(server.name())) {
                return ((Number) mbeans.getAttribute(found, name)).longValue();
            }
        }
        throw new AssertionError("there is no MBean of " + server.name());
    }

    public static void main(String[] arguments) throws Exception {
        TestServer a = new TestServer(PARAMETERS, 49152);
        TestServer b = new TestServer(PARAMETERS, 49152);
        TestServer small = new TestServer(PARAMETERS, 8192);
        Check check = new Check();
        for (String path : List.of("/count", "/long?stream", "/long", "/redirect", "/refuse", "/fail", "/reset", "/async", "/dispatch")) {
            check.that("a change is saved with the response, and its session cookie set: POST " + path, () -> {
                Client client = new Client();
                Version first = client.post(a, path).save();
                holds(first != null && first.term() == 1, first);
                client.move(b);
                equal(client.get(b, "/count").text(), "1");
                Version second = client.post(b, path).save();
                holds(second != null && second.term() == 2 && second.seq() > first.seq(), second);
                equal(client.get(b, "/count").text(), "2");
            });
        }
        check.that("an error page belongs to the request: it sees the session and its changes are saved", () -> {
            Client client = new Client();
            Answer answer = client.post(a, "/fail");
            equal(answer.status(), 500);
            equal(answer.text(), "1");
        });
        check.that("a value that is changed in place is saved, and one that is only read is not", () -> {
            Client client = new Client();
            client.post(a, "/add?item=axle");
            equal(client.post(a, "/add?item=wheel").save(), new Version(1, 2));
            equal(client.get(a, "/basket").save(), null);
            client.move(b);
            equal(client.get(b, "/basket").text(), "axle,wheel");
        });
        check.that("what changes after the head was sent is counted, and saved with the next response", () -> {
            Client client = new Client();
            client.post(a, "/count");
            long before = counter(a, "AfterCommit");
            equal(client.post(a, "/late").save(), null);
            Check.until("the late change is counted", () -> counter(a, "AfterCommit") == before + 1);
            equal(client.get(a, "/count").save(), new Version(1, 2));
            client.move(b);
            equal(client.get(b, "/count").text(), "2");
        });
        check.that("a copy that does not fit into the head is dropped, the response passes, and the session goes on here", () -> {
            Client client = new Client();
            equal(client.post(small, "/count").save(), new Version(1, 1));
            Answer answer = client.post(small, "/fill?bytes=8000");
            equal(answer.status(), 200);
            equal(answer.drop(), new Version(1, 2));
            equal(answer.save(), null);
            equal(client.send(small, "GET", "/count", SessionField.NAME, SessionField.of(client.ref, client.known) + ";dropped").text(), "1");
            equal(client.post(small, "/fill?bytes=10").save(), new Version(1, 3));
            holds(counter(small, "TooLong") > 0, "none counted");
        });
        check.that("a copy that the connector allows is sent: 32 KiB", () -> {
            Client client = new Client();
            equal(client.post(a, "/fill?bytes=32000").save(), new Version(1, 1));
        });
        check.that("attributes that can't be copied are left out, and the others survive", () -> {
            Client client = new Client();
            equal(client.post(a, "/connection").save(), new Version(1, 1));
            client.post(a, "/forbidden");
            client.move(b);
            equal(client.get(b, "/count").text(), "2");
        });
        check.that("a login right after a logout replaces the copy", () -> {
            Client client = new Client();
            client.post(a, "/count");
            client.post(a, "/count");
            String old = client.cookie;
            Answer answer = client.post(a, "/relogin");
            equal(answer.drop(), null);
            equal(answer.save(), new Version(1, 3));
            holds(!client.cookie.equals(old), "the same id");
            client.move(b);
            equal(client.get(b, "/count").text(), "1");
        });
        check.that("a logout is told, also if an empty session follows it", () -> {
            Client client = new Client();
            client.post(a, "/count");
            Answer answer = client.post(a, "/restart");
            equal(answer.save(), null);
            equal(answer.drop(), new Version(1, 2));
        });
        check.that("a drop or a save that was lost on its way is said again", () -> {
            Client client = new Client();
            client.post(a, "/count");
            Version before = client.known;
            equal(client.post(a, "/count").save(), new Version(1, 2));
            client.known = before;
            equal(client.get(a, "/count").save(), new Version(1, 3));
            before = client.known;
            equal(client.post(a, "/logout").drop(), new Version(1, 4));
            client.known = before;
            equal(client.get(a, "/count").drop(), new Version(1, 5));
        });
        check.that("a session id that the client chose is never used", () -> {
            Client client = new Client();
            client.cookie = "JSESSIONID=CHOSENBYTHECLIENT";
            client.post(a, "/count");
            holds(!client.cookie.contains("CHOSEN"), client.cookie);
        });
        check.that("of several session cookies the one that names a session counts", () -> {
            Client client = new Client();
            client.post(a, "/count");
            client.cookie = "JSESSIONID=0123; " + client.cookie;
            equal(client.get(a, "/count").text(), "1");
            client.move(b);
            equal(client.get(b, "/count").text(), "1");
        });
        check.that("requests that arrive together with the copy all find it", () -> {
            for (int round = 0; round < 20; round++) {
                Client client = new Client();
                client.post(a, "/count");
                client.move(b);
                List<CompletableFuture<String>> texts = new ArrayList<>();
                for (int n = 0; n < 8; n++) {
                    texts.add(CompletableFuture.supplyAsync(() -> {
                        try {
                            String field = SessionField.of(client.ref, client.known);
                            return send(b, "GET", "/count", client.cookie, null, SessionField.NAME, field).text();
                        } catch (Exception failure) {
                            throw new AssertionError(failure);
                        }
                    }));
                }
                for (CompletableFuture<String> text : texts) {
                    equal(text.get(), "1");
                }
            }
        });
        check.that("a copy of another secret is not taken, and one of the old secret is", () -> {
            try (TestServer other = new TestServer(Map.of("linchpin.session.secret", "x".repeat(32)), 8192);
                    TestServer rotated = new TestServer(Map.of("linchpin.session.secret", "x".repeat(32), "linchpin.session.old-secret", SECRET),
                            8192)) {
                Client client = new Client();
                client.post(a, "/count");
                Version version = new Version(2, 1);
                String field = SessionField.of(client.ref, version);
                equal(send(other, "PUT", CopyEndpoint.PATH, null, client.copy, SessionField.NAME, field).status(), 422);
                client.move(rotated);
                equal(client.get(rotated, "/count").text(), "1");
            }
        });
        check.that("a session that was only read for a quarter of its time is saved again", () -> {
            Client client = new Client();
            client.post(a, "/count");
            client.post(a, "/idle?seconds=8");
            Version first = client.known;
            equal(client.get(a, "/count").save(), null);
            // Each request keeps the session alive.
            Check.until("a save", () -> client.get(a, "/count").save() != null);
            equal(client.known, new Version(1, first.seq() + 1));
        });
        check.that("a session whose time is over has ended, and the next response says so", () -> {
            try (TestServer quick = new TestServer(PARAMETERS, 8192)) {
                Client client = new Client();
                client.post(quick, "/count");
                client.post(quick, "/idle?seconds=1");
                Check.until("the end of the session", () -> counter(quick, "Sessions") == 0);
                Answer answer = client.get(quick, "/count");
                equal(answer.text(), "0");
                holds(answer.drop() != null && client.known.equals(answer.drop()), answer.response().headers());
            }
        });
        check.that("the application does not start without a secret, or with a short one", () -> {
            for (Map<String, String> wrong : Arrays.asList(Map.<String, String>of(), Map.of("linchpin.session.secret", "short"))) {
                try (TestServer started = new TestServer(wrong, 8192)) {
                    throw new AssertionError("it started at " + started.port());
                } catch (IllegalStateException refused) {
                    holds(refused.getMessage().contains("did not start"), refused);
                }
            }
        });
        check.run();
    }
}
