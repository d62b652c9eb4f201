import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URLDecoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Executors;

/** A target program: Java's built-in HTTP server on a fixed pool of threads. Usage: HOST:PORT. */
final class Server {
    private static final int THREADS = 8;
    private static final int BIG_BODY = 1 << 20;
    private static final int CHUNK_COUNT = 5;
    private static final int LENGTH_UNKNOWN = 0;
    private static final int NO_BODY = -1;

    private static final HttpClient CLIENT =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    public static void main(String[] arguments) throws IOException {
        int colon = arguments[0].lastIndexOf(':');
        String host = arguments[0].substring(0, colon);
        int port = Integer.parseInt(arguments[0].substring(colon + 1));
        InetSocketAddress address = new InetSocketAddress(InetAddress.getByName(host), port);
        HttpServer server = HttpServer.create(address, 128);
        server.setExecutor(Executors.newFixedThreadPool(THREADS));
        server.createContext("/", Server::handle);
        server.start();
    }

    private static void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            answer(exchange);
        } catch (InterruptedException | RuntimeException error) {
            throw new IOException(error);
        }
    }

    private static void answer(HttpExchange exchange) throws IOException, InterruptedException {
        String[] path = exchange.getRequestURI().getPath().split("/");
        String n = path[path.length - 1];
        switch (path.length > 1 ? path[1] : "") {
            case "ready" -> text(exchange, 200, "ready\n");
            case "n" -> text(exchange, 200, body(n));
            case "slow" -> {
                Thread.sleep(Long.parseLong(query(exchange).getOrDefault("ms", "0")));
                text(exchange, 200, body(n));
            }
            case "status" -> status(exchange, Integer.parseInt(path[2]), n);
            case "chunked" -> chunked(exchange, n);
            case "big" -> text(exchange, 200, big(n));
            case "echo" -> {
                int size = exchange.getRequestBody().readAllBytes().length;
                text(exchange, 200, "n=" + n + " bytes=" + size + "\n");
            }
            case "call" -> call(exchange, n);
            default -> text(exchange, 404, "no such path\n");
        }
    }

    private static String body(String n) {
        return "n=" + n + "\n";
    }

    private static String big(String n) {
        String start = "n=" + n + " ";
        return start + ".".repeat(BIG_BODY - start.length() - 1) + "\n";
    }

    private static void text(HttpExchange exchange, int status, String text) throws IOException {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "text/plain");
        exchange.sendResponseHeaders(status, bytes.length);
        exchange.getResponseBody().write(bytes);
    }

    private static void status(HttpExchange exchange, int code, String n) throws IOException {
        if (code == 204 || code == 304) {
            exchange.sendResponseHeaders(code, NO_BODY);
            return;
        }
        text(exchange, code, body(n));
    }

    private static void chunked(HttpExchange exchange, String n) throws IOException {
        exchange.sendResponseHeaders(200, LENGTH_UNKNOWN);
        OutputStream out = exchange.getResponseBody();
        out.write(body(n).getBytes(StandardCharsets.UTF_8));
        out.flush();
        for (int i = 1; i < CHUNK_COUNT; i++) {
            out.write(("piece " + i + " of " + n + "\n").getBytes(StandardCharsets.UTF_8));
            out.flush();
        }
    }

    private static void call(HttpExchange exchange, String n)
            throws IOException, InterruptedException {
        Map<String, String> query = query(exchange);
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(query.get("url")));
        String parent = exchange.getRequestHeaders().getFirst("traceparent");
        if ("1".equals(query.get("forward")) && parent != null) {
            request.header("traceparent", parent);
        }
        HttpResponse<String> answer =
                CLIENT.send(request.build(), HttpResponse.BodyHandlers.ofString());
        text(exchange, 200, "n=" + n + " status=" + answer.statusCode() + " body=" + answer.body());
    }

    private static Map<String, String> query(HttpExchange exchange) {
        Map<String, String> values = new HashMap<>();
        String raw = exchange.getRequestURI().getRawQuery();
        for (String pair : raw == null ? new String[0] : raw.split("&")) {
            String[] sides = pair.split("=", 2);
            if (sides.length == 2) {
                values.put(sides[0], URLDecoder.decode(sides[1], StandardCharsets.UTF_8));
            }
        }
        return values;
    }

    private Server() {}
}
