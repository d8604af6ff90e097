package dev.linchpin.session;

import jakarta.servlet.AsyncEvent;
import jakarta.servlet.AsyncListener;
import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.FilterConfig;
import jakarta.servlet.ServletContext;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.Collections;
import java.util.EventListener;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import javax.management.JMException;
import javax.management.ObjectName;

/**
 * Keeps the application's sessions, and gives Linchpin a sealed copy of each one that changes, so that they survive this server.
 * The sessions are the filter's own, not the container's: a container does not let a session come back under the id that the
 * client has. Must be the first filter that uses sessions.
 */
public final class SessionFilter implements Filter {
    private static final System.Logger LOG = System.getLogger(SessionFilter.class.getName());
    private static final String EXCHANGE = SessionFilter.class.getName() + ".exchange";
    private static final String WANT = "Linchpin-Session-Want";
    private static final int SWEEP_SECONDS = 5;
    private static final int MAX_ENDED = 100_000;

    private Parts parts;
    private CopyEndpoint endpoint;
    private ScheduledExecutorService sweeper;
    private ObjectName name;

    @Override
    public void init(FilterConfig config) throws ServletException {
        Settings settings = Settings.read(config);
        ServletContext context = config.getServletContext();
        Sessions sessions = new Sessions(context, new Listeners(listeners(settings, context)), context.getSessionTimeout() * 60);
        RefTable refs = new RefTable(settings.waitingMemory(), MAX_ENDED);
        Counters counters = new Counters(sessions, refs);
        try {
            parts = new Parts(settings, new Seal(settings.secrets()), new SessionCodec(settings.allow(), counters), sessions, refs,
                    new HeadLimit(settings.headLimit()), counters);
        } catch (IllegalArgumentException wrong) {
            throw new ServletException("The session filter's secret or its parameter `allow`: " + wrong.getMessage(), wrong);
        }
        endpoint = new CopyEndpoint(parts);
        sweeper = Executors.newSingleThreadScheduledExecutor(task -> {
            Thread thread = new Thread(task, "linchpin-sessions");
            thread.setDaemon(true);
            return thread;
        });
        sweeper.scheduleWithFixedDelay(this::sweep, SWEEP_SECONDS, SWEEP_SECONDS, TimeUnit.SECONDS);
        show(context);
        LOG.log(System.Logger.Level.INFO, "sessions of \"{0}\" are copied to Linchpin, which gives copies at {0}{1}", context.getContextPath(),
                CopyEndpoint.PATH);
    }

    private static List<EventListener> listeners(Settings settings, ServletContext context) throws ServletException {
        List<EventListener> listeners = new ArrayList<>();
        for (String name : settings.listeners()) {
            try {
                Class<?> type = Class.forName(name, true, context.getClassLoader());
                listeners.add(context.createListener(type.asSubclass(EventListener.class)));
            } catch (ClassNotFoundException | ClassCastException wrong) {
                throw new ServletException("The session filter's parameter `listeners`: " + name + " is no listener: " + wrong, wrong);
            }
        }
        return listeners;
    }

    private void show(ServletContext context) {
        try {
            String place = context.getVirtualServerName() + context.getContextPath();
            name = new ObjectName("dev.linchpin.session:type=SessionFilter,context=" + ObjectName.quote(place));
            ManagementFactory.getPlatformMBeanServer().registerMBean(parts.counters(), name);
        } catch (JMException failure) {
            name = null;
            LOG.log(System.Logger.Level.WARNING, "the counters can't be shown over JMX: {0}", failure.toString());
        }
    }

    private void sweep() {
        try {
            long now = System.currentTimeMillis();
            parts.sessions().sweep(now, parts.refs());
            parts.refs().sweep(now);
        } catch (RuntimeException failure) {
            // Of a listener, for example: the next sweep must come.
            LOG.log(System.Logger.Level.ERROR, "sessions could not be ended", failure);
        }
    }

    @Override
    public void destroy() {
        sweeper.shutdownNow();
        try {
            if (name != null) {
                ManagementFactory.getPlatformMBeanServer().unregisterMBean(name);
            }
        } catch (JMException gone) {
            return;
        }
    }

    @Override
    public void doFilter(ServletRequest plainRequest, ServletResponse plainResponse, FilterChain chain) throws IOException, ServletException {
        if (!(plainRequest instanceof HttpServletRequest request) || !(plainResponse instanceof HttpServletResponse response)) {
            chain.doFilter(plainRequest, plainResponse);
            return;
        }
        if (request.getAttribute(EXCHANGE) instanceof Exchange exchange) {
            exchange.again();
            run(request, response, exchange, chain);
            return;
        }
        if (request.getRequestURI().substring(request.getContextPath().length()).equals(CopyEndpoint.PATH)) {
            endpoint.serve(request, response);
            return;
        }
        SessionField field = SessionField.parse(Collections.list(request.getHeaders(SessionField.NAME)));
        RefTable.Entry entry = null;
        if (field != null) {
            entry = parts.refs().admit(field, System.currentTimeMillis());
            if (entry == null) {
                parts.counters().wants.increment();
                response.setHeader(WANT, "?1");
                response.setContentLength(0);
                response.setStatus(HttpServletResponse.SC_CONFLICT);
                return;
            }
        }
        Exchange exchange = new Exchange(parts, request, response, field, entry);
        request.setAttribute(EXCHANGE, exchange);
        run(request, response, exchange, chain);
    }

    /** Runs the application with the session of the exchange. */
    private static void run(HttpServletRequest request, HttpServletResponse response, Exchange exchange, FilterChain chain)
            throws IOException, ServletException {
        SessionResponse wrappedResponse = new SessionResponse(response, exchange);
        SessionRequest wrappedRequest = new SessionRequest(request, wrappedResponse, exchange);
        boolean hasReturned = false;
        try {
            chain.doFilter(wrappedRequest, wrappedResponse);
            hasReturned = true;
        } finally {
            if (hasReturned && request.isAsyncStarted()) {
                request.getAsyncContext().addListener(new Finish(exchange));
            } else {
                exchange.beforeCommit();
                exchange.finish();
            }
        }
    }

    /** Ends the exchange with the asynchronous request. */
    private record Finish(Exchange exchange) implements AsyncListener {
        @Override
        public void onComplete(AsyncEvent event) {
            exchange.beforeCommit();
            exchange.finish();
        }

        @Override
        public void onTimeout(AsyncEvent event) {
            exchange.beforeCommit();
        }

        @Override
        public void onError(AsyncEvent event) {
            exchange.beforeCommit();
        }

        @Override
        public void onStartAsync(AsyncEvent event) {
            // Listeners of the first cycle are not those of the next.
            event.getAsyncContext().addListener(this);
        }
    }
}
