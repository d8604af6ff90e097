package dev.linchpin.session;

import jakarta.servlet.http.HttpSessionAttributeListener;
import jakarta.servlet.http.HttpSessionBindingEvent;
import jakarta.servlet.http.HttpSessionEvent;
import jakarta.servlet.http.HttpSessionIdListener;
import jakarta.servlet.http.HttpSessionListener;
import java.util.EventListener;
import java.util.List;
import java.util.function.Consumer;

/** The application's listeners for sessions. A container tells them of its own sessions only, so the filter has to be given them. */
final class Listeners {
    private static final System.Logger LOG = System.getLogger(Listeners.class.getName());

    private final List<EventListener> all;

    Listeners(List<EventListener> all) {
        this.all = List.copyOf(all);
    }

    void created(LinchpinSession session) {
        each(HttpSessionListener.class, listener -> listener.sessionCreated(new HttpSessionEvent(session)));
    }

    void destroyed(LinchpinSession session) {
        each(HttpSessionListener.class, listener -> listener.sessionDestroyed(new HttpSessionEvent(session)));
    }

    void renamed(LinchpinSession session, String oldId) {
        each(HttpSessionIdListener.class, listener -> listener.sessionIdChanged(new HttpSessionEvent(session), oldId));
    }

    void set(LinchpinSession session, String name, Object value, Object old) {
        if (all.isEmpty()) {
            return;
        }
        HttpSessionBindingEvent event = new HttpSessionBindingEvent(session, name, old == null ? value : old);
        each(HttpSessionAttributeListener.class, listener -> {
            if (old == null) {
                listener.attributeAdded(event);
            } else {
                listener.attributeReplaced(event);
            }
        });
    }

    void removed(LinchpinSession session, String name, Object old) {
        each(HttpSessionAttributeListener.class, listener -> listener.attributeRemoved(new HttpSessionBindingEvent(session, name, old)));
    }

    private <L> void each(Class<L> kind, Consumer<L> event) {
        for (EventListener listener : all) {
            if (kind.isInstance(listener)) {
                try {
                    event.accept(kind.cast(listener));
                } catch (RuntimeException failure) {
                    LOG.log(System.Logger.Level.ERROR, "a session listener failed: " + listener.getClass().getName(), failure);
                }
            }
        }
    }
}
