package dev.linchpin.session;

import java.io.File;
import java.nio.file.Files;
import java.util.Map;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.util.descriptor.web.ErrorPage;

/** A Tomcat on a free port of loopback, with the filter and {@link TestApplication}. */
@SuppressWarnings("deprecation")
final class TestServer implements AutoCloseable {
    private static int servers = 100;

    private final Tomcat tomcat = new Tomcat();
    private final File folder;

    /** @param parameters context parameters, such as {@code linchpin.session.secret} */
    TestServer(Map<String, String> parameters, int maxResponseHead) throws Exception {
        folder = Files.createTempDirectory("linchpin-session-test").toFile();
        tomcat.setBaseDir(folder.getPath());
        // Several Tomcats of one process need names.
        tomcat.getEngine().setName("tomcat" + ++servers);
        Connector connector = new Connector();
        connector.setPort(0);
        connector.setProperty("address", "127.0.0.1");
        connector.setProperty("maxHttpResponseHeaderSize", String.valueOf(maxResponseHead));
        tomcat.setConnector(connector);
        Context context = tomcat.addContext("", folder.getPath());
        parameters.forEach(context::addParameter);
        context.addServletContainerInitializer(new SessionFilterInstaller(), null);
        Tomcat.addServlet(context, "application", new TestApplication()).setAsyncSupported(true);
        context.addServletMappingDecoded("/", "application");
        ErrorPage page = new ErrorPage();
        page.setErrorCode(500);
        page.setLocation("/error");
        context.addErrorPage(page);
        tomcat.start();
        if (context.getState() != org.apache.catalina.LifecycleState.STARTED) {
            close();
            throw new IllegalStateException("the application did not start");
        }
    }

    String name() {
        return tomcat.getEngine().getName();
    }

    int port() {
        return tomcat.getConnector().getLocalPort();
    }

    @Override
    public void close() throws Exception {
        tomcat.stop();
        tomcat.destroy();
        try (var files = Files.walk(folder.toPath())) {
            files.sorted(java.util.Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
        }
    }

    /** Runs one until the process is killed, and prints its address: for integrations/check.py. */
    public static void main(String[] arguments) throws Exception {
        System.setProperty("java.util.logging.SimpleFormatter.format", "%4$s: %5$s%6$s%n");
        System.out.println("http://127.0.0.1:" + new TestServer(Map.of(), 49152).port());
        Thread.currentThread().join();
    }
}
