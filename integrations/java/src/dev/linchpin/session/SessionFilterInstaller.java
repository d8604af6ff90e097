package dev.linchpin.session;

import jakarta.servlet.DispatcherType;
import jakarta.servlet.FilterRegistration;
import jakarta.servlet.ServletContainerInitializer;
import jakarta.servlet.ServletContext;
import java.util.EnumSet;
import java.util.Set;

/** Puts the filter before all others when its jar is in WEB-INF/lib. An application that registers it itself is left alone. */
public final class SessionFilterInstaller implements ServletContainerInitializer {
    @Override
    public void onStartup(Set<Class<?>> classes, ServletContext context) {
        String filter = SessionFilter.class.getName();
        for (FilterRegistration registered : context.getFilterRegistrations().values()) {
            if (filter.equals(registered.getClassName())) {
                return;
            }
        }
        FilterRegistration.Dynamic registration = context.addFilter("linchpin-sessions", filter);
        registration.setAsyncSupported(true);
        registration.addMappingForUrlPatterns(EnumSet.of(DispatcherType.REQUEST, DispatcherType.ASYNC, DispatcherType.ERROR), false, "/*");
    }
}
