package dev.linchpin.session;

import jakarta.servlet.AsyncContext;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import jakarta.servlet.http.HttpSession;

/** The request as the application sees it: its session is the filter's, not the container's. */
final class SessionRequest extends HttpServletRequestWrapper {
    private final Exchange exchange;
    private final SessionResponse response;

    SessionRequest(HttpServletRequest request, SessionResponse response, Exchange exchange) {
        super(request);
        this.response = response;
        this.exchange = exchange;
    }

    @Override
    public HttpSession getSession() {
        return getSession(true);
    }

    @Override
    public HttpSession getSession(boolean create) {
        return exchange.session(create);
    }

    @Override
    public String changeSessionId() {
        return exchange.changeSessionId();
    }

    @Override
    public String getRequestedSessionId() {
        return exchange.requestedId();
    }

    @Override
    public boolean isRequestedSessionIdValid() {
        return exchange.isRequestedIdValid();
    }

    @Override
    public boolean isRequestedSessionIdFromCookie() {
        return exchange.requestedId() != null;
    }

    @Override
    public boolean isRequestedSessionIdFromURL() {
        return false;
    }

    @Override
    public AsyncContext startAsync() {
        // The container would take its own request and response, in which there are no copies.
        return startAsync(this, response);
    }

    @Override
    public AsyncContext startAsync(ServletRequest request, ServletResponse response) {
        return new SessionAsyncContext(super.startAsync(request, response), exchange);
    }

    @Override
    public AsyncContext getAsyncContext() {
        return new SessionAsyncContext(super.getAsyncContext(), exchange);
    }
}
