import io.vertx.core.AbstractVerticle;
import io.vertx.core.DeploymentOptions;
import io.vertx.core.Future;
import io.vertx.core.Vertx;
import io.vertx.core.http.HttpClient;
import io.vertx.core.http.HttpClientRequest;
import io.vertx.core.http.HttpClientResponse;
import io.vertx.core.http.HttpMethod;
import io.vertx.core.http.HttpServerOptions;
import io.vertx.core.http.HttpServerRequest;
import java.net.URI;
import java.time.Duration;
import reactor.core.publisher.Mono;
import reactor.netty.http.server.HttpServer;

/**
 * A target program: the event loops of Java, several of them. Usage: CALLED=URL, HOST:PORT
 * netty|vertx; GET /m/SHAPE/CLIENT/N calls CALLED/n/N, once or twice, the second time after a timer
 * where the shape is `timer`.
 */
final class Loops {
    private static final int LOOPS = 2;
    private static final Duration PAUSE = Duration.ofMillis(2);
    private static final String CALLED = System.getenv("CALLED");

    public static void main(String[] arguments) {
        int colon = arguments[0].lastIndexOf(':');
        String host = arguments[0].substring(0, colon);
        int port = Integer.parseInt(arguments[0].substring(colon + 1));
        if (arguments[1].equals("netty")) {
            netty(host, port);
        } else {
            vertx(host, port);
        }
    }

    /** Netty as Spring's WebFlux uses it. */
    private static void netty(String host, int port) {
        reactor.netty.http.client.HttpClient client =
                reactor.netty.http.client.HttpClient.create();
        HttpServer.create()
                .host(host)
                .port(port)
                .handle(
                        (request, response) -> {
                            String[] path = request.uri().split("/");
                            if (!path[1].equals("m")) {
                                return response.sendString(Mono.just("ready\n"));
                            }
                            Mono<String> done = call(client, path[4]);
                            if (!path[2].equals("one")) {
                                Mono<String> second = Mono.defer(() -> call(client, path[4]));
                                done = done.then(pause(path[2]).then(second));
                            }
                            return response.sendString(
                                    done.map(answer -> "n=" + path[4] + "\n"));
                        })
                .bindNow()
                .onDispose()
                .block();
    }

    private static Mono<Long> pause(String shape) {
        return shape.equals("timer") ? Mono.delay(PAUSE) : Mono.empty();
    }

    private static Mono<String> call(reactor.netty.http.client.HttpClient client, String n) {
        return client.get().uri(CALLED + "/n/" + n).responseContent().aggregate().asString();
    }

    private static void vertx(String host, int port) {
        Vertx vertx = Vertx.vertx();
        vertx.deployVerticle(
                () -> new Verticle(host, port), new DeploymentOptions().setInstances(LOOPS));
    }

    private static final class Verticle extends AbstractVerticle {
        private final String host;
        private final int port;
        private HttpClient client;

        Verticle(String host, int port) {
            this.host = host;
            this.port = port;
        }

        @Override
        public void start() {
            client = vertx.createHttpClient();
            HttpServerOptions options = new HttpServerOptions().setHost(host).setPort(port);
            vertx.createHttpServer(options).requestHandler(this::handle).listen();
        }

        private void handle(HttpServerRequest request) {
            String[] path = request.path().split("/");
            if (!path[1].equals("m")) {
                request.response().end("ready\n");
                return;
            }
            Future<?> done = call(path[4]);
            switch (path[2]) {
                case "one" -> {}
                case "timer" ->
                        done =
                                done.compose(answer -> vertx.timer(PAUSE.toMillis()))
                                        .compose(passed -> call(path[4]));
                default -> done = done.compose(answer -> call(path[4]));
            }
            done.onSuccess(answer -> request.response().end("n=" + path[4] + "\n"))
                    .onFailure(error -> request.response().setStatusCode(502).end());
        }

        private Future<?> call(String n) {
            URI uri = URI.create(CALLED + "/n/" + n);
            return client.request(HttpMethod.GET, uri.getPort(), uri.getHost(), uri.getPath())
                    .compose(HttpClientRequest::send)
                    .compose(HttpClientResponse::body);
        }
    }

    private Loops() {}
}
