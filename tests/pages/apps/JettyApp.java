// Jetty 9 with Spring's DispatcherServlet: java -cp JARS JettyApp.java PORT traced|production
import java.util.Map;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.servlet.ErrorPageErrorHandler;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.context.support.AnnotationConfigWebApplicationContext;
import org.springframework.web.servlet.DispatcherServlet;
import org.springframework.web.servlet.mvc.method.annotation.RequestMappingHandlerAdapter;
import org.springframework.web.servlet.mvc.method.annotation.RequestMappingHandlerMapping;

public class JettyApp {
    @RestController
    public static class Orders {
        @RequestMapping("/boom")
        public String boom() {
            return "" + Map.of("book", 12).get("pen").intValue();
        }
    }

    public static class Plain extends javax.servlet.http.HttpServlet {
        @Override
        protected void doGet(javax.servlet.http.HttpServletRequest request, javax.servlet.http.HttpServletResponse response) throws java.io.IOException {
            if (request.getParameter("meant") != null) {
                response.sendError(500, "The order could not be saved.");
                return;
            }
            throw new IllegalStateException("no price for pen");
        }
    }

    public static void main(String[] args) throws Exception {
        var server = new Server();
        var connector = new ServerConnector(server);
        connector.setHost("127.0.0.1");
        connector.setPort(Integer.parseInt(args[0]));
        server.addConnector(connector);
        var spring = new AnnotationConfigWebApplicationContext();
        spring.register(RequestMappingHandlerMapping.class, RequestMappingHandlerAdapter.class, Orders.class);
        var context = new ServletContextHandler();
        context.addServlet(new ServletHolder(new Plain()), "/plain");
        context.addServlet(new ServletHolder(new DispatcherServlet(spring)), "/");
        var errors = new ErrorPageErrorHandler();
        errors.setShowStacks(args[1].equals("traced"));
        context.setErrorHandler(errors);
        server.setHandler(context);
        server.start();
        server.join();
    }
}
