import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.autoconfigure.websocket.servlet.WebSocketServletAutoConfiguration;
import org.springframework.boot.web.embedded.jetty.JettyServletWebServerFactory;
import org.springframework.boot.web.embedded.tomcat.TomcatServletWebServerFactory;
import org.springframework.boot.web.embedded.undertow.UndertowServletWebServerFactory;
import org.springframework.boot.web.servlet.server.ServletWebServerFactory;
import org.springframework.context.annotation.Bean;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestClient;

/**
 * A target program: Spring Boot 3 on one of its servers. Usage: CALLED=URL, HOST:PORT
 * tomcat|jetty|undertow; GET /m/SHAPE/CLIENT/N calls CALLED/n/N, by a pool of threads where the
 * shape is `future`.
 */
@RestController
@EnableAutoConfiguration(exclude = WebSocketServletAutoConfiguration.class)
public class Spring {
    private static final String CALLED = System.getenv("CALLED");
    private static final int POOLED = 32;
    private static String server;
    private final RestClient client = RestClient.create();
    private final ExecutorService pool = Executors.newFixedThreadPool(POOLED);

    public static void main(String[] arguments) {
        server = arguments[1];
        int colon = arguments[0].lastIndexOf(':');
        SpringApplication application = new SpringApplication(Spring.class);
        application.setDefaultProperties(
                Map.of(
                        "server.address", arguments[0].substring(0, colon),
                        "server.port", arguments[0].substring(colon + 1),
                        "server.tomcat.max-keep-alive-requests", "-1"));
        application.run();
    }

    @Bean
    ServletWebServerFactory factory() {
        return switch (server) {
            case "jetty" -> new JettyServletWebServerFactory();
            case "undertow" -> new UndertowServletWebServerFactory();
            default -> new TomcatServletWebServerFactory();
        };
    }

    @GetMapping("/ready")
    String ready() {
        return "ready\n";
    }

    @GetMapping("/m/{shape}/{client}/{n}")
    String answer(
            @PathVariable("shape") String shape,
            @PathVariable("client") String client,
            @PathVariable("n") String n)
            throws IOException {
        call(client, n);
        if (shape.equals("two")) {
            call(client, n);
        }
        return "n=" + n + "\n";
    }

    /** Whoever has read the request is free meanwhile; any thread writes the answer. */
    @GetMapping("/m/future/{client}/{n}")
    CompletableFuture<String> later(
            @PathVariable("client") String client, @PathVariable("n") String n) {
        return CompletableFuture.runAsync(() -> called(client, n), pool)
                .thenRunAsync(() -> called(client, n), pool)
                .thenApply(nothing -> "n=" + n + "\n");
    }

    private void called(String client, String n) {
        try {
            call(client, n);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private void call(String name, String n) throws IOException {
        if (name.equals("rest")) {
            client.get().uri(CALLED + "/n/" + n).retrieve().body(String.class);
        } else {
            Servlets.call(name, n);
        }
    }
}
