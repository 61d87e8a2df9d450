// Tomcat 10, embedded: java -cp TOMCAT TomcatApp.java PORT traced|production
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.File;
import java.nio.file.Files;
import java.util.Map;
import org.apache.catalina.core.StandardHost;
import org.apache.catalina.startup.Tomcat;
import org.apache.catalina.valves.ErrorReportValve;

public class TomcatApp {
    static int price(Map<String, Integer> cart, String article) throws ServletException {
        try {
            return cart.get(article);
        } catch (NullPointerException error) {
            throw new ServletException("no price for " + article, error);
        }
    }

    public static void main(String[] args) throws Exception {
        var tomcat = new Tomcat();
        var base = Files.createTempDirectory("tomcat").toString();
        tomcat.setBaseDir(base);
        tomcat.setPort(Integer.parseInt(args[0]));
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        var host = (StandardHost) tomcat.getHost();
        var context = tomcat.addContext("", new File(base).getAbsolutePath());
        Tomcat.addServlet(context, "shop", new HttpServlet() {
            @Override
            protected void doGet(HttpServletRequest request, HttpServletResponse response) throws ServletException {
                response.setContentLength(price(Map.of("book", 12), "pen"));
            }
        });
        context.addServletMappingDecoded("/", "shop");
        if (args[1].equals("production")) {
            var valve = new ErrorReportValve();
            valve.setShowReport(false);
            valve.setShowServerInfo(false);
            host.getPipeline().addValve(valve);
        }
        tomcat.start();
        tomcat.getServer().await();
    }
}
