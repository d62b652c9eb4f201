import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.net.URI;

/** Target program: grpc-java's server of the numbered service. GrpcServer HOST:PORT [NEXT] */
final class GrpcServer {
    private static ManagedChannel next;

    private GrpcServer() {}

    public static void main(String[] arguments) throws Exception {
        int colon = arguments[0].lastIndexOf(':');
        InetSocketAddress address = new InetSocketAddress(
                arguments[0].substring(0, colon), Integer.parseInt(arguments[0].substring(colon + 1)));
        if (arguments.length > 1) {
            next = NettyChannelBuilder.forTarget(arguments[1]).usePlaintext().build();
        }
        NettyServerBuilder.forAddress(address).addService(service()).build().start().awaitTermination();
    }

    private static ServerServiceDefinition service() {
        return ServerServiceDefinition.builder(Numbers.SERVICE)
                .addMethod(Numbers.ONE, ServerCalls.asyncUnaryCall(GrpcServer::one))
                .addMethod(Numbers.RELAY, ServerCalls.asyncUnaryCall(GrpcServer::relay))
                .addMethod(Numbers.FAIL, ServerCalls.asyncUnaryCall(GrpcServer::fail))
                .addMethod(Numbers.WAIT, ServerCalls.asyncUnaryCall((message, answers) -> {}))
                .addMethod(Numbers.DOWN, ServerCalls.asyncServerStreamingCall(GrpcServer::down))
                .addMethod(Numbers.UP, ServerCalls.asyncClientStreamingCall(GrpcServer::up))
                .addMethod(Numbers.BOTH, ServerCalls.asyncBidiStreamingCall(GrpcServer::both))
                .build();
    }

    private static void one(byte[] message, StreamObserver<byte[]> answers) {
        answers.onNext(message);
        answers.onCompleted();
    }

    /** The same call of One elsewhere, while this one is served. */
    private static void relay(byte[] message, StreamObserver<byte[]> answers) {
        askHttp(Numbers.number(message));
        CallOptions options = CallOptions.DEFAULT.withWaitForReady();
        answers.onNext(ClientCalls.blockingUnaryCall(next, Numbers.ONE, options, message));
        answers.onCompleted();
    }

    /** A call of HTTP/1, where PEERS_NEXT_HTTP is a HOST:PORT. */
    private static void askHttp(int n) {
        String address = System.getenv("PEERS_NEXT_HTTP");
        if (address == null) {
            return;
        }
        try (InputStream answer = URI.create("http://" + address + "/n/" + n).toURL().openStream()) {
            answer.readAllBytes();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static void fail(byte[] message, StreamObserver<byte[]> answers) {
        int n = Numbers.number(message);
        Status status = Status.fromCodeValue(Numbers.failingCode(n));
        answers.onError(status.withDescription("as asked: " + n + "%").asRuntimeException());
    }

    private static void down(byte[] message, StreamObserver<byte[]> answers) {
        for (int i = 0; i < Numbers.PARTS; i++) {
            answers.onNext(message);
        }
        answers.onCompleted();
    }

    private static StreamObserver<byte[]> up(StreamObserver<byte[]> answers) {
        return new Messages(answers) {
            private byte[] last;

            @Override
            public void onNext(byte[] message) {
                last = message;
            }

            @Override
            public void onCompleted() {
                answers.onNext(last);
                answers.onCompleted();
            }
        };
    }

    private static StreamObserver<byte[]> both(StreamObserver<byte[]> answers) {
        return new Messages(answers) {
            @Override
            public void onNext(byte[] message) {
                answers.onNext(message);
            }

            @Override
            public void onCompleted() {
                answers.onCompleted();
            }
        };
    }

    private abstract static class Messages implements StreamObserver<byte[]> {
        private final StreamObserver<byte[]> answers;

        Messages(StreamObserver<byte[]> answers) {
            this.answers = answers;
        }

        @Override
        public void onError(Throwable error) {
            answers.onError(error);
        }
    }
}
