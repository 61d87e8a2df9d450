// One attempt of one Java driver, as an app would make it: java App.java DRIVER HOST PORT
// Prints what the error says, as JSON.

import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.sql.Driver;
import java.sql.DriverManager;
import java.time.Duration;
import java.util.Properties;

public class App {
    public static void main(String[] args) throws Exception {
        String name = args[0], host = args[1], port = args[2], version = System.getProperty("java.version");
        try {
            switch (name) {
                case "postgresql" -> {
                    version = version(Class.forName("org.postgresql.Driver"));
                    sql("jdbc:postgresql://" + host + ":" + port + "/shop?loginTimeout=2&socketTimeout=2&connectTimeout=2");
                }
                case "mariadb" -> {
                    version = version(Class.forName("org.mariadb.jdbc.Driver"));
                    sql("jdbc:mariadb://" + host + ":" + port + "/shop?connectTimeout=1500&socketTimeout=1500");
                }
                default -> HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(1)).build().send(
                        HttpRequest.newBuilder(URI.create("http://" + host + ":" + port + "/charge"))
                                .timeout(Duration.ofSeconds(1)).build(),
                        HttpResponse.BodyHandlers.ofString());
            }
            System.out.println("{\"driver\": \"" + name + "\", \"version\": \"" + version + "\"}");
        } catch (ClassNotFoundException error) {
            System.out.println("not in CLASSPATH: " + error.getMessage());
        } catch (Exception error) {
            StringWriter trace = new StringWriter();
            error.printStackTrace(new PrintWriter(trace));
            System.out.println("{\"driver\": \"" + name + "\", \"version\": \"" + version + "\", \"message\": "
                    + json(String.valueOf(error.getMessage())) + ", \"repr\": " + json(error.toString()) + ", \"trace\": "
                    + json(trace.toString()) + "}");
        }
        System.exit(0);
    }

    static void sql(String url) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("user", "app");
        DriverManager.getConnection(url, properties).createStatement().execute("select 1");
    }

    static String version(Class<?> driver) throws Exception {
        Driver made = (Driver) driver.getDeclaredConstructor().newInstance();
        return made.getMajorVersion() + "." + made.getMinorVersion();
    }

    static String json(String text) {
        StringBuilder found = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                found.append('\\').append(c);
            } else if (c < ' ') {
                found.append(String.format("\\u%04x", (int) c));
            } else {
                found.append(c);
            }
        }
        return found.append('"').toString();
    }
}
