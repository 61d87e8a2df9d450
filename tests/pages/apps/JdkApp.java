// The server of the JDK, the trace as text: java JdkApp.java PORT
import com.sun.net.httpserver.HttpServer;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Map;

public class JdkApp {
    static int price(Map<String, Integer> cart, String article) {
        try {
            return cart.get(article);
        } catch (NullPointerException error) {
            throw new IllegalStateException("no price for " + article, error);
        }
    }

    public static void main(String[] args) throws Exception {
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 0);
        server.createContext("/", exchange -> {
            var text = new StringWriter();
            try {
                price(Map.of("book", 12), "pen");
            } catch (RuntimeException error) {
                error.printStackTrace(new PrintWriter(text, true));
            }
            var bytes = text.toString().getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(500, bytes.length);
            exchange.getResponseBody().write(bytes);
            exchange.close();
        });
        server.start();
    }
}
