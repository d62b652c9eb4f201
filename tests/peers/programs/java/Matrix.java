import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * A target program: Java's built-in HTTP server, one handler in many shapes. Usage: CALLED=URL,
 * HOST:PORT fixed|virtual; GET /m/SHAPE/CLIENT/N calls CALLED/n/N.
 */
final class Matrix {
    private static final int THREADS = 32;
    private static final String CALLED = System.getenv("CALLED");
    private static final HttpClient CLIENT =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private static final ExecutorService OTHERS = Executors.newFixedThreadPool(THREADS);

    public static void main(String[] arguments) throws Exception {
        int colon = arguments[0].lastIndexOf(':');
        String host = arguments[0].substring(0, colon);
        int port = Integer.parseInt(arguments[0].substring(colon + 1));
        InetSocketAddress address = new InetSocketAddress(InetAddress.getByName(host), port);
        HttpServer server = HttpServer.create(address, 128);
        server.setExecutor(executor(arguments[1]));
        server.createContext("/", Matrix::handle);
        server.start();
    }

    /** Virtual threads by name: the compiler may be older than the machine that runs this. */
    private static ExecutorService executor(String kind) throws ReflectiveOperationException {
        if (kind.equals("fixed")) {
            return Executors.newFixedThreadPool(THREADS);
        }
        Object made = Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
        return (ExecutorService) made;
    }

    private static void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            String[] path = exchange.getRequestURI().getPath().split("/");
            if (path[1].equals("m")) {
                shape(path[2], path[3], path[4]);
                text(exchange, "n=" + path[4] + "\n");
            } else {
                text(exchange, "ready\n");
            }
        } catch (InterruptedException | RuntimeException error) {
            throw new IOException(error);
        }
    }

    private static void shape(String name, String client, String n)
            throws IOException, InterruptedException {
        call(client, n);
        switch (name) {
            case "one" -> {}
            case "two" -> call(client, n);
            case "mixed" ->
                    List.of(other(client, n), other(client, n)).forEach(CompletableFuture::join);
            default -> {
                Thread.sleep(2);
                call(client, n);
            }
        }
    }

    /** A call by another thread. */
    private static CompletableFuture<Void> other(String client, String n) {
        return CompletableFuture.runAsync(
                () -> {
                    try {
                        call(client, n);
                    } catch (IOException | InterruptedException error) {
                        throw new IllegalStateException(error);
                    }
                },
                OTHERS);
    }

    private static void call(String client, String n) throws IOException, InterruptedException {
        URI uri = URI.create(CALLED + "/n/" + n);
        if (client.equals("url")) {
            try (InputStream answer = uri.toURL().openStream()) {
                answer.readAllBytes();
            }
            return;
        }
        HttpRequest request = HttpRequest.newBuilder(uri).build();
        if (client.equals("async")) {
            CLIENT.sendAsync(request, HttpResponse.BodyHandlers.ofString()).join();
        } else {
            CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        }
    }

    private static void text(HttpExchange exchange, String text) throws IOException {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(200, bytes.length);
        exchange.getResponseBody().write(bytes);
    }

    private Matrix() {}
}
