import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Target program: gets URLs with Java's HttpClient, which upgrades its connection to HTTP/2. */
final class Upgrade {
    private Upgrade() {}

    public static void main(String[] urls) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_2).build();
        for (String url : urls) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            if (answer.version() != HttpClient.Version.HTTP_2) {
                throw new IllegalStateException("not upgraded: " + answer.version());
            }
        }
    }
}
