import io.undertow.Undertow;
import io.undertow.server.handlers.BlockingHandler;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import okhttp3.OkHttpClient;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.apache.hc.client5.http.classic.methods.HttpGet;
import org.apache.hc.client5.http.impl.classic.CloseableHttpClient;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.client5.http.impl.io.PoolingHttpClientConnectionManagerBuilder;
import org.apache.hc.core5.http.io.entity.EntityUtils;
import org.eclipse.jetty.server.Handler;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Response;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.util.Callback;
import org.eclipse.jetty.util.thread.QueuedThreadPool;

/**
 * A target program: the servers of Java that frameworks bring along, with handlers that block.
 * Usage: CALLED=URL, HOST:PORT tomcat|jetty|javalin|undertow|virtual; GET /m/SHAPE/CLIENT/N calls
 * CALLED/n/N. javalin: Jetty, its threads called as Javalin does.
 */
final class Servlets {
    private static final int POOLED = 16;
    private static final String CALLED = System.getenv("CALLED");
    private static final HttpClient CLIENT =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private static final OkHttpClient OKHTTP = new OkHttpClient();
    private static final CloseableHttpClient APACHE =
            HttpClients.custom()
                    .setConnectionManager(
                            PoolingHttpClientConnectionManagerBuilder.create()
                                    .setMaxConnPerRoute(POOLED)
                                    .setMaxConnTotal(POOLED)
                                    .build())
                    .build();

    public static void main(String[] arguments) throws Exception {
        int colon = arguments[0].lastIndexOf(':');
        String host = arguments[0].substring(0, colon);
        int port = Integer.parseInt(arguments[0].substring(colon + 1));
        switch (arguments[1]) {
            case "tomcat" -> tomcat(host, port, false);
            case "virtual" -> tomcat(host, port, true);
            case "jetty" -> jetty(host, port, "");
            case "javalin" -> jetty(host, port, "JettyServerThreadPool");
            default -> undertow(host, port);
        }
    }

    private static void tomcat(String host, int port, boolean isVirtual) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(System.getProperty("java.io.tmpdir"));
        tomcat.setHostname(host);
        tomcat.setPort(port);
        tomcat.getConnector().setProperty("maxKeepAliveRequests", "-1");
        tomcat.getConnector().setProperty("useVirtualThreads", Boolean.toString(isVirtual));
        Context context = tomcat.addContext("", new File(".").getAbsolutePath());
        Tomcat.addServlet(context, "matrix", new Servlet());
        context.addServletMappingDecoded("/", "matrix");
        tomcat.start();
    }

    private static final class Servlet extends HttpServlet {
        private static final long serialVersionUID = 1L;

        @Override
        protected void doGet(HttpServletRequest request, HttpServletResponse response)
                throws IOException {
            byte[] text = answer(request.getRequestURI());
            response.setContentLength(text.length);
            response.getOutputStream().write(text);
        }
    }

    private static void jetty(String host, int port, String threads) throws Exception {
        QueuedThreadPool pool = new QueuedThreadPool();
        if (!threads.isEmpty()) {
            pool.setName(threads);
        }
        Server server = new Server(pool);
        ServerConnector connector = new ServerConnector(server);
        connector.setHost(host);
        connector.setPort(port);
        server.addConnector(connector);
        server.setHandler(
                new Handler.Abstract() {
                    @Override
                    public boolean handle(Request request, Response response, Callback callback)
                            throws IOException {
                        byte[] text = answer(request.getHttpURI().getPath());
                        response.write(true, ByteBuffer.wrap(text), callback);
                        return true;
                    }
                });
        server.start();
    }

    private static void undertow(String host, int port) {
        Undertow.builder()
                .addHttpListener(port, host)
                .setHandler(
                        new BlockingHandler(
                                exchange -> {
                                    byte[] text = answer(exchange.getRequestPath());
                                    exchange.getOutputStream().write(text);
                                }))
                .build()
                .start();
    }

    private static byte[] answer(String target) throws IOException {
        String[] path = target.split("/");
        String text = "ready\n";
        if (path[1].equals("m")) {
            boolean asks = path[2].equals("jdbc");
            if (asks) {
                Database.ask(path[4]);
            }
            call(path[3], path[4]);
            if (asks) {
                Database.ask(path[4]);
            }
            if (!path[2].equals("one")) {
                call(path[3], path[4]);
            }
            text = "n=" + path[4] + "\n";
        }
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static void call(String client, String n) throws IOException {
        URI uri = URI.create(CALLED + "/n/" + n);
        switch (client) {
            case "url" -> {
                try (InputStream answer = uri.toURL().openStream()) {
                    answer.readAllBytes();
                }
            }
            case "okhttp" -> {
                okhttp3.Request request = new okhttp3.Request.Builder().url(uri.toString()).build();
                try (okhttp3.Response answer = OKHTTP.newCall(request).execute()) {
                    answer.body().bytes();
                }
            }
            case "apache" ->
                    APACHE.execute(
                            new HttpGet(uri),
                            answer -> {
                                EntityUtils.consume(answer.getEntity());
                                return null;
                            });
            default -> {
                try {
                    CLIENT.send(
                            HttpRequest.newBuilder(uri).build(),
                            HttpResponse.BodyHandlers.ofString());
                } catch (InterruptedException error) {
                    throw new IOException(error);
                }
            }
        }
    }

    private Servlets() {}
}
