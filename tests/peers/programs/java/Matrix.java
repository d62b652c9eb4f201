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
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A target program: Java's built-in HTTP server, one handler in many shapes. Usage: CALLED=URL,
 * HOST:PORT fixed|virtual; GET /m/SHAPE/CLIENT/N calls CALLED/n/N.
 */
final class Matrix {
    private static final int THREADS = 32;
    private static final int NOBODYS = 9_000_000;
    private static final int BACKGROUND_CALLS = 400;
    private static final String CALLED = System.getenv("CALLED");
    private static final HttpClient CLIENT =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private static final ExecutorService OTHERS = Executors.newFixedThreadPool(THREADS);

    private static ScheduledExecutorService background;

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
        if (name.equals("background")) {
            startBackground(client);
        }
        call(client, n);
        switch (name) {
            case "one", "background" -> {}
            case "two" -> call(client, n);
            case "mixed" ->
                    List.of(other(client, n), other(client, n)).forEach(CompletableFuture::join);
            default -> {
                Thread.sleep(2);
                call(client, n);
            }
        }
    }

    /** Work that is nobody's, while requests are served and when none are. */
    private static synchronized void startBackground(String client) {
        if (background != null) {
            return;
        }
        background = Executors.newSingleThreadScheduledExecutor();
        AtomicInteger nobodys = new AtomicInteger(NOBODYS);
        background.scheduleAtFixedRate(
                () -> {
                    int n = nobodys.getAndIncrement();
                    if (n >= NOBODYS + BACKGROUND_CALLS) {
                        background.shutdown();
                        return;
                    }
                    try {
                        call(client, Integer.toString(n));
                    } catch (IOException | InterruptedException error) {
                        throw new IllegalStateException(error);
                    }
                },
                0,
                2,
                TimeUnit.MILLISECONDS);
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
