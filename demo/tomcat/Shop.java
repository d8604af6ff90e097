import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import jakarta.servlet.http.HttpSession;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/**
 * The shop of demo/tomcat.sh: a login, a cart and a counter, all in the container's session. It knows nothing of clusters,
 * copies or Linchpin: it uses the servlet API as any application does.
 */
public final class Shop extends HttpServlet {
    private static final long serialVersionUID = 1;

    /** The page of the session: who is logged in, what is in the cart, how far the counter is. */
    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
        report(request.getSession(false), response);
    }

    @Override
    protected void doPost(HttpServletRequest request, HttpServletResponse response) throws IOException {
        switch (request.getServletPath()) {
            case "/login" -> {
                HttpSession session = request.getSession();
                session.setAttribute("user", request.getParameter("user"));
                // As each login should: whoever knew the id of before knows nothing now.
                if (!session.isNew()) {
                    request.changeSessionId();
                }
            }
            case "/logout" -> {
                HttpSession session = request.getSession(false);
                if (session != null) {
                    session.invalidate();
                }
            }
            case "/cart" -> add(request.getSession(), request.getParameter("item"));
            case "/count" -> count(request.getSession());
            case "/slow" -> {
                HttpSession session = request.getSession();
                sleep(Integer.parseInt(request.getParameter("ms")));
                count(session);
            }
            default -> {
                response.sendError(HttpServletResponse.SC_NOT_FOUND);
                return;
            }
        }
        report(request.getSession(false), response);
    }

    private static void add(HttpSession session, String item) {
        synchronized (Shop.class) {
            List<String> cart = new ArrayList<>(cart(session));
            cart.add(item);
            // A new list and a call of setAttribute: Tomcat's clusters notice nothing else.
            session.setAttribute("cart", cart);
        }
    }

    private static void count(HttpSession session) {
        synchronized (Shop.class) {
            session.setAttribute("count", counter(session) + 1);
        }
    }

    @SuppressWarnings("unchecked")
    private static List<String> cart(HttpSession session) {
        List<String> cart = (List<String>) session.getAttribute("cart");
        return cart == null ? List.of() : cart;
    }

    private static int counter(HttpSession session) {
        Integer count = (Integer) session.getAttribute("count");
        return count == null ? 0 : count;
    }

    private static void sleep(int milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private static void report(HttpSession session, HttpServletResponse response) throws IOException {
        response.setContentType("application/json");
        response.setHeader("Cache-Control", "no-store");
        StringBuilder json = new StringBuilder("{\"server\":").append(quoted(System.getProperty("demo.server")));
        if (session != null) {
            json.append(",\"user\":").append(quoted((String) session.getAttribute("user")));
            json.append(",\"count\":").append(counter(session)).append(",\"cart\":[");
            String separator = "";
            for (String item : cart(session)) {
                json.append(separator).append(quoted(item));
                separator = ",";
            }
            json.append(']');
        }
        response.getWriter().append(json).append("}\n");
    }

    private static String quoted(String text) {
        return text == null ? "null" : '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }
}
