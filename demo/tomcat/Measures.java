import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import javax.management.JMException;
import javax.management.MBeanServer;
import javax.management.ObjectName;

/**
 * What demo/tomcat.sh measures in a server: the heap that is in use after a collection, the messages of Tomcat's cluster that
 * this server received (its ThroughputInterceptor counts them), the other servers that it sees, and the sessions that it holds.
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
            // BackupManager alone also knows sessions of which it has only the id.
            String known = attribute("*:type=Manager,*", "activeSessionsFull");
            response.getWriter().printf("{\"heap\":%d,\"messages\":%s,\"members\":%d,\"sessions\":%s,\"known\":%s}%n",
                    heap, messages, members(), sessions, known);
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

    /** Returns how many other servers this one sees in its cluster. */
    private static int members() throws JMException {
        MBeanServer server = ManagementFactory.getPlatformMBeanServer();
        for (ObjectName found : server.queryNames(new ObjectName("*:type=Channel,component=Channel,*"), null)) {
            return ((Object[]) server.getAttribute(found, "Members")).length;
        }
        return 0;
    }
}
