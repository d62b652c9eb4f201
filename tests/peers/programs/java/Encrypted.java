import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import java.util.concurrent.Executors;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/**
 * A target program whose TLS is JSSE's. Usage: `calls URL COUNT VERSION`: waits for a line, then calls
 * one after the other over HTTP_1_1 or HTTP_2, "{}" being the number, says "done" and waits for another
 * line; or `server PORT`: plain HTTP, whose /call/N?URL calls URL on the thread that serves.
 */
final class Encrypted {
    private Encrypted() {}

    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("server")) {
            serve(Integer.parseInt(arguments[1]));
        } else {
            call(arguments[1], Integer.parseInt(arguments[2]), arguments[3]);
            System.exit(0);
        }
    }

    private static void call(String url, int count, String version) throws Exception {
        HttpClient client =
                HttpClient.newBuilder()
                        .version(HttpClient.Version.valueOf(version))
                        .sslContext(trusting())
                        .build();
        waitForLine();
        for (int n = 1; n <= count; n++) {
            URI target = URI.create(url.replace("{}", Integer.toString(n)));
            HttpResponse<String> answer =
                    client.send(
                            HttpRequest.newBuilder(target).build(),
                            HttpResponse.BodyHandlers.ofString());
            if (answer.statusCode() != 200) {
                throw new IOException("request " + n + ": " + answer.statusCode());
            }
        }
        System.out.println("done");
        waitForLine();
    }

    private static void waitForLine() throws IOException {
        int read;
        do {
            read = System.in.read();
        } while (read >= 0 && read != '\n');
    }

    private static void serve(int port) throws Exception {
        HttpsURLConnection.setDefaultSSLSocketFactory(trusting().getSocketFactory());
        HttpsURLConnection.setDefaultHostnameVerifier((name, session) -> true);
        HttpServer server =
                HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", Encrypted::answer);
        server.start();
    }

    private static void answer(HttpExchange exchange) throws IOException {
        String url = exchange.getRequestURI().getQuery();
        if (url != null) {
            try (InputStream body = new URL(url).openStream()) {
                body.readAllBytes();
            }
        }
        exchange.sendResponseHeaders(200, -1);
        exchange.close();
    }

    private static SSLContext trusting() throws Exception {
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {new Trusting()}, new SecureRandom());
        return context;
    }

    /** Takes any certificate. */
    private static final class Trusting implements X509TrustManager {
        @Override
        public void checkClientTrusted(X509Certificate[] chain, String kind) {}

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String kind) {}

        @Override
        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }
}
