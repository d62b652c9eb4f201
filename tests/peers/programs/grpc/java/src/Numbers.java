import io.grpc.KnownLength;
import io.grpc.MethodDescriptor;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** What the grpc-java programs share: the numbered service (see ../../go/internal/numbers). */
final class Numbers {
    static final String SERVICE = "peers.Numbers";
    static final int PARTS = 3;

    static final MethodDescriptor<byte[], byte[]> ONE = method("One", MethodDescriptor.MethodType.UNARY);
    static final MethodDescriptor<byte[], byte[]> RELAY = method("Relay", MethodDescriptor.MethodType.UNARY);
    static final MethodDescriptor<byte[], byte[]> FAIL = method("Fail", MethodDescriptor.MethodType.UNARY);
    static final MethodDescriptor<byte[], byte[]> WAIT = method("Wait", MethodDescriptor.MethodType.UNARY);
    static final MethodDescriptor<byte[], byte[]> DOWN =
            method("Down", MethodDescriptor.MethodType.SERVER_STREAMING);
    static final MethodDescriptor<byte[], byte[]> UP =
            method("Up", MethodDescriptor.MethodType.CLIENT_STREAMING);
    static final MethodDescriptor<byte[], byte[]> BOTH =
            method("Both", MethodDescriptor.MethodType.BIDI_STREAMING);

    private Numbers() {}

    static byte[] message(int n) {
        byte[] start = (n + ":").getBytes(StandardCharsets.US_ASCII);
        byte[] made = Arrays.copyOf(start, Math.max(n, start.length));
        Arrays.fill(made, start.length, made.length, (byte) '.');
        return made;
    }

    static int number(byte[] message) {
        String text = new String(message, StandardCharsets.US_ASCII);
        return Integer.parseInt(text.substring(0, text.indexOf(':')));
    }

    static int failingCode(int n) {
        return 1 + n % 16;
    }

    private static MethodDescriptor<byte[], byte[]> method(String name, MethodDescriptor.MethodType type) {
        return MethodDescriptor.<byte[], byte[]>newBuilder()
                .setType(type)
                .setFullMethodName(MethodDescriptor.generateFullMethodName(SERVICE, name))
                .setRequestMarshaller(new Bytes())
                .setResponseMarshaller(new Bytes())
                .build();
    }

    private static final class Known extends ByteArrayInputStream implements KnownLength {
        Known(byte[] bytes) {
            super(bytes);
        }
    }

    private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] value) {
            return new Known(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }
}
