import java.io.IOException;
import java.util.Map;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestClient;

/**
 * A target program: Spring Boot 3 as it comes, which is Tomcat. Usage: CALLED=URL, HOST:PORT;
 * GET /m/SHAPE/CLIENT/N calls CALLED/n/N.
 */
@RestController
@EnableAutoConfiguration
public class Spring {
    private static final String CALLED = System.getenv("CALLED");
    private final RestClient client = RestClient.create();

    public static void main(String[] arguments) {
        int colon = arguments[0].lastIndexOf(':');
        SpringApplication application = new SpringApplication(Spring.class);
        application.setDefaultProperties(
                Map.of(
                        "server.address", arguments[0].substring(0, colon),
                        "server.port", arguments[0].substring(colon + 1),
                        "server.tomcat.max-keep-alive-requests", "-1"));
        application.run();
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

    private void call(String name, String n) throws IOException {
        if (name.equals("rest")) {
            client.get().uri(CALLED + "/n/" + n).retrieve().body(String.class);
        } else {
            Servlets.call(name, n);
        }
    }
}
