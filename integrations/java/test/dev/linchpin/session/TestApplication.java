package dev.linchpin.session;

import jakarta.servlet.AsyncContext;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import jakarta.servlet.http.HttpSession;
import java.io.IOException;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;

/** An application that does with its session what applications do. Each path is one thing. */
public final class TestApplication extends HttpServlet {
    private static final long serialVersionUID = 1;

    /** A value of the application's own class. */
    static final class Basket implements Serializable {
        private static final long serialVersionUID = 1;
        final List<String> items = new ArrayList<>();
    }

    /** A value that can't be serialised. */
    static final class Connection {
        final Thread thread = Thread.currentThread();
    }

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
        response.setContentType("text/plain;charset=UTF-8");
        HttpSession session = request.getSession(false);
        String path = request.getDispatcherType() == jakarta.servlet.DispatcherType.ERROR ? "/error" : request.getServletPath();
        switch (path) {
            case "/count" -> {
                if (request.getMethod().equals("POST")) {
                    count(request.getSession());
                }
                respond(request, response);
            }
            case "/logout" -> {
                if (session != null) {
                    session.invalidate();
                }
                respond(request, response);
            }
            case "/renew" -> {
                if (session != null) {
                    request.changeSessionId();
                }
                respond(request, response);
            }
            case "/slow" -> {
                session = request.getSession();
                sleep(1000);
                count(session);
                respond(request, response);
            }
            case "/relogin" -> {
                if (session != null) {
                    session.invalidate();
                }
                count(request.getSession());
                respond(request, response);
            }
            case "/restart" -> {
                if (session != null) {
                    session.invalidate();
                }
                // A new session, with nothing in it.
                request.getSession();
                respond(request, response);
            }
            case "/add" -> {
                // Changes a value in place, as many do.
                session = request.getSession();
                Basket basket = (Basket) session.getAttribute("basket");
                if (basket == null) {
                    basket = new Basket();
                    session.setAttribute("basket", basket);
                }
                synchronized (basket) {
                    basket.items.add(request.getParameter("item"));
                }
                respond(request, response);
            }
            case "/basket" -> {
                Basket basket = session == null ? null : (Basket) session.getAttribute("basket");
                response.getWriter().print(basket == null ? "none" : String.join(",", basket.items));
            }
            case "/idle" -> {
                request.getSession().setMaxInactiveInterval(Integer.parseInt(request.getParameter("seconds")));
                respond(request, response);
            }
            case "/fill" -> {
                request.getSession().setAttribute("filling", "x".repeat(Integer.parseInt(request.getParameter("bytes"))));
                respond(request, response);
            }
            case "/connection" -> {
                request.getSession().setAttribute("connection", new Connection());
                count(request.getSession());
                respond(request, response);
            }
            case "/forbidden" -> {
                request.getSession().setAttribute("file", new java.io.File("/etc/passwd"));
                count(request.getSession());
                respond(request, response);
            }
            case "/long" -> {
                // Fills the buffer several times, by the stream or the writer, and changed the session before.
                count(request.getSession());
                String line = "a line of a long page\n";
                for (int number = 0; number < 2000; number++) {
                    if (request.getParameter("stream") != null) {
                        response.getOutputStream().print(line);
                    } else {
                        response.getWriter().print(line);
                    }
                }
            }
            case "/late" -> {
                session = request.getSession();
                response.getWriter().print("begun");
                response.flushBuffer();
                count(session);
            }
            case "/redirect" -> {
                count(request.getSession());
                response.sendRedirect("/count");
            }
            case "/refuse" -> {
                count(request.getSession());
                response.sendError(403);
            }
            case "/fail" -> {
                count(request.getSession());
                throw new IllegalStateException("as asked for");
            }
            case "/error" -> {
                // An error page that uses the session.
                request.getSession().setAttribute("error", "shown");
                respond(request, response);
            }
            case "/reset" -> {
                count(request.getSession());
                response.getWriter().print("x".repeat(100));
                response.reset();
                response.setContentType("text/plain;charset=UTF-8");
                respond(request, response);
            }
            case "/async" -> {
                AsyncContext context = request.startAsync();
                HttpSession own = request.getSession();
                context.start(() -> {
                    try {
                        count(own);
                        // Longer than the buffer: a part is sent before the request is complete.
                        context.getResponse().getWriter().print("asynchronous".repeat(2000));
                    } catch (IOException broken) {
                        throw new IllegalStateException(broken);
                    } finally {
                        context.complete();
                    }
                });
            }
            case "/dispatch" -> {
                if (request.getDispatcherType() == jakarta.servlet.DispatcherType.ASYNC) {
                    count(request.getSession());
                    respond(request, response);
                } else {
                    request.startAsync().dispatch();
                }
            }
            default -> response.sendError(404);
        }
    }

    private static void count(HttpSession session) {
        synchronized (TestApplication.class) {
            Integer count = (Integer) session.getAttribute("count");
            session.setAttribute("count", count == null ? 1 : count + 1);
        }
    }

    private static void respond(HttpServletRequest request, HttpServletResponse response) throws IOException {
        HttpSession session = request.getSession(false);
        Object count = session == null ? null : session.getAttribute("count");
        response.getWriter().print(count == null ? "0" : count.toString());
    }

    private static void sleep(int milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
