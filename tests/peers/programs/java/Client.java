import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A target program: requests each number once with Java's HttpClient and exits 0 only if every
 * answer began with its number. Usage: URL_BASE COUNT CONCURRENCY [switches].
 */
final class Client {
    private final HttpClient client =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private final String base;
    private final int count;
    private final int concurrency;
    private int first = 1;
    private int gate = -1;
    private String path = "/n/{}";
    private boolean traceparent;

    public static void main(String[] arguments) throws Exception {
        new Client(arguments).run();
        System.exit(0);
    }

    private Client(String[] arguments) {
        base = arguments[0];
        count = Integer.parseInt(arguments[1]);
        concurrency = Integer.parseInt(arguments[2]);
        for (int i = 3; i < arguments.length; i++) {
            switch (arguments[i]) {
                case "--first" -> first = Integer.parseInt(arguments[++i]);
                case "--gate" -> gate = Integer.parseInt(arguments[++i]);
                case "--path" -> path = arguments[++i];
                case "--traceparent" -> traceparent = true;
                case "--mode" -> requireKeepAlive(arguments[++i]);
                default -> throw new IllegalArgumentException("cannot do " + arguments[i]);
            }
        }
    }

    /** HttpClient sets Connection itself: to close, start with -Djdk.httpclient.keepalive.timeout. */
    private static void requireKeepAlive(String mode) {
        if (!mode.equals("keepalive")) {
            throw new IllegalArgumentException("HttpClient keeps its connections");
        }
    }

    private void run() throws Exception {
        int middle = first + Math.max(gate, 0);
        if (gate >= 0) {
            fetchAll(first, middle);
            System.out.println("gate");
            if (System.in.read() < 0) {
                throw new IOException("the gate was never opened: stdin ended");
            }
        }
        fetchAll(middle, first + count);
    }

    private void fetchAll(int from, int end) throws InterruptedException, ExecutionException {
        AtomicInteger next = new AtomicInteger(from);
        ExecutorService threads = Executors.newFixedThreadPool(concurrency);
        List<Future<?>> workers = new ArrayList<>();
        for (int i = 0; i < concurrency; i++) {
            workers.add(
                    threads.submit(
                            () -> {
                                for (int n = next.getAndIncrement(); n < end; ) {
                                    fetch(n);
                                    n = next.getAndIncrement();
                                }
                                return null;
                            }));
        }
        threads.shutdown();
        for (Future<?> worker : workers) {
            worker.get();
        }
    }

    private void fetch(int n) throws IOException, InterruptedException {
        String url = base + path.replace("{}", Integer.toString(n));
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url));
        if (traceparent) {
            request.header("traceparent", String.format("00-7ace%028x-5fa0%012x-01", n, n));
        }
        HttpResponse<String> answer =
                client.send(request.build(), HttpResponse.BodyHandlers.ofString());
        if (!answer.body().split("\\s", 2)[0].equals("n=" + n)) {
            throw new IOException("request " + n + ": not its own answer: " + answer.body());
        }
    }
}
