import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/** A target program: what Java prints. The number in the URL is in every record. */
final class Logs {
    public static void main(String[] arguments) throws IOException {
        String[] address = arguments[0].split(":");
        HttpServer server =
                HttpServer.create(
                        new InetSocketAddress(address[0], Integer.parseInt(address[1])), 128);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", Logs::handle);
        server.start();
    }

    private static void handle(HttpExchange exchange) throws IOException {
        String path = exchange.getRequestURI().getPath();
        String n = path.substring(path.lastIndexOf('/') + 1);
        if (path.startsWith("/fail")) {
            synchronized (System.err) { // as logging libraries do
                new IllegalStateException("request=" + n + " fails").printStackTrace();
            }
        } else if (!n.equals("ready")) {
            System.out.println("INFO: request=" + n + " begins");
        }
        byte[] body = ("n=" + n + "\n").getBytes(StandardCharsets.UTF_8);
        try (exchange) {
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
        }
    }
}
