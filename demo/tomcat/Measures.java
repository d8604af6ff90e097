import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import javax.management.JMException;
import javax.management.MBeanServer;
import javax.management.ObjectName;

/**
 * What demo/tomcat.sh measures in a server: the heap that is in use after a collection, the messages about sessions that this
 * server received, and the sessions that it holds. Tomcat's cluster and the filter for copies count them.
 */
public final class Measures extends HttpServlet {
    private static final long serialVersionUID = 1;

    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
        response.setContentType("application/json");
        if (request.getParameter("collect") != null) {
            System.gc();
        }
        long heap = ManagementFactory.getMemoryMXBean().getHeapMemoryUsage().getUsed();
        try {
            String messages = attribute("*:component=Interceptor,interceptorName=ThroughputInterceptor,*", "MsgRxCnt");
            String sessions = attribute("*:type=Manager,*", "activeSessions");
            if (messages == null) {
                // No cluster. The messages are the copies that Linchpin has given.
                messages = attribute("dev.linchpin.session:*", "Taken");
                sessions = attribute("dev.linchpin.session:*", "Sessions");
            }
            response.getWriter().printf("{\"heap\":%d,\"messages\":%s,\"sessions\":%s}%n", heap, messages, sessions);
        } catch (JMException failure) {
            throw new IOException(failure);
        }
    }

    /** Returns an attribute of the only MBean with this name, or null if there is none or it has no such attribute. */
    private static String attribute(String name, String attribute) throws JMException {
        MBeanServer server = ManagementFactory.getPlatformMBeanServer();
        for (ObjectName found : server.queryNames(new ObjectName(name), null)) {
            try {
                return String.valueOf(server.getAttribute(found, attribute));
            } catch (JMException absent) {
                return null;
            }
        }
        return null;
    }
}
