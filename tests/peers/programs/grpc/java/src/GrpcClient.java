import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;

/** Target program: makes each numbered call once with grpc-java; see the Go client for the rest. */
final class GrpcClient {
    private static final int GIVE_UP_MS = 100;

    private final ManagedChannel channel;
    private final String[] calls;
    private final int concurrency;

    private GrpcClient(ManagedChannel channel, String[] calls, int concurrency) {
        this.channel = channel;
        this.calls = calls;
        this.concurrency = concurrency;
    }

    /** HOST:PORT COUNT CONCURRENCY [--first N] [--gate N] [--warm N] [--calls KINDS] */
    public static void main(String[] arguments) {
        try {
            run(arguments);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1); // the channel's threads would go on
        }
    }

    private static void run(String[] arguments) throws Exception {
        int count = Integer.parseInt(arguments[1]);
        int concurrency = Integer.parseInt(arguments[2]);
        int first = 100;
        int gate = -1;
        int warm = 0;
        String calls = "one";
        for (int i = 3; i + 1 < arguments.length; i += 2) {
            switch (arguments[i]) {
                case "--first" -> first = Integer.parseInt(arguments[i + 1]);
                case "--gate" -> gate = Integer.parseInt(arguments[i + 1]);
                case "--warm" -> warm = Integer.parseInt(arguments[i + 1]);
                case "--calls" -> calls = arguments[i + 1];
                default -> throw new IllegalArgumentException(arguments[i]);
            }
        }
        if (warm > 0) {
            warmUp(arguments[0], calls.split(","), concurrency, first, warm);
        }
        ManagedChannel channel = connect(arguments[0]);
        GrpcClient client = new GrpcClient(channel, calls.split(","), concurrency);
        client.callAll(first, first + Math.max(gate, 0));
        if (gate >= 0) {
            passGate();
        }
        awaitReady(channel);
        client.callAll(first + Math.max(gate, 0), first + count);
        channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
    }

    private static ManagedChannel connect(String target) {
        return NettyChannelBuilder.forTarget(target).usePlaintext().build();
    }

    /**
     * What gives up soon must be under way by then: calls before the gate, on a connection of their
     * own, make code quick that has never run.
     */
    private static void warmUp(String target, String[] calls, int concurrency, int first, int count)
            throws Exception {
        ManagedChannel channel = connect(target);
        new GrpcClient(channel, calls, concurrency).callAll(first, first + count);
        channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
    }

    /** Connects, and waits until that is done. */
    private static void awaitReady(ManagedChannel channel) throws Exception {
        for (ConnectivityState state = channel.getState(true);
                state != ConnectivityState.READY;
                state = channel.getState(true)) {
            CountDownLatch changed = new CountDownLatch(1);
            channel.notifyWhenStateChanged(state, changed::countDown);
            changed.await();
        }
    }

    private static void passGate() throws Exception {
        System.out.println("gate");
        System.out.flush();
        if (new BufferedReader(new InputStreamReader(System.in)).readLine() == null) {
            throw new IllegalStateException("the gate was never opened: stdin ended");
        }
    }

    private void callAll(int first, int end) throws Exception {
        AtomicInteger next = new AtomicInteger(first);
        ExecutorService workers = Executors.newFixedThreadPool(concurrency);
        List<Future<?>> done = new ArrayList<>();
        for (int i = 0; i < concurrency; i++) {
            done.add(workers.submit(() -> {
                for (int n = next.getAndIncrement(); n < end; n = next.getAndIncrement()) {
                    call(n);
                }
                return null;
            }));
        }
        for (Future<?> one : done) {
            one.get();
        }
        workers.shutdown();
    }

    private void call(int n) throws Exception {
        CallOptions options = CallOptions.DEFAULT.withWaitForReady();
        byte[] message = Numbers.message(n);
        switch (calls[n % calls.length]) {
            case "one" -> check(n, List.of(unary(Numbers.ONE, options, message)), 1);
            case "relay" -> check(n, List.of(unary(Numbers.RELAY, options, message)), 1);
            case "fail" -> expect(n, Numbers.failingCode(n), () -> unary(Numbers.FAIL, options, message));
            case "deadline" -> expect(n, 4, () -> unary(
                    Numbers.WAIT, options.withDeadlineAfter(GIVE_UP_MS, TimeUnit.MILLISECONDS), message));
            case "cancel" -> cancel(n, options, message);
            case "down" -> down(n, options, message);
            case "up" -> streamed(n, Numbers.UP, options, message, 1);
            case "both" -> streamed(n, Numbers.BOTH, options, message, Numbers.PARTS);
            default -> throw new IllegalArgumentException("no such call");
        }
    }

    private byte[] unary(MethodDescriptor<byte[], byte[]> method, CallOptions options, byte[] message) {
        return ClientCalls.blockingUnaryCall(channel, method, options, message);
    }

    private void cancel(int n, CallOptions options, byte[] message) throws Exception {
        Context.CancellableContext context = Context.current().withCancellation();
        Thread canceller = new Thread(() -> {
            try {
                Thread.sleep(GIVE_UP_MS);
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
            context.cancel(null);
        });
        canceller.start();
        context.run(() -> expect(n, 1, () -> unary(Numbers.WAIT, options, message)));
        canceller.join();
    }

    private void down(int n, CallOptions options, byte[] message) {
        List<byte[]> answers = new ArrayList<>();
        Iterator<byte[]> all =
                ClientCalls.blockingServerStreamingCall(channel, Numbers.DOWN, options, message);
        all.forEachRemaining(answers::add);
        check(n, answers, Numbers.PARTS);
    }

    private void streamed(
            int n, MethodDescriptor<byte[], byte[]> method, CallOptions options, byte[] message, int wanted)
            throws Exception {
        List<byte[]> answers = new ArrayList<>();
        CountDownLatch over = new CountDownLatch(1);
        AtomicReference<Throwable> failure = new AtomicReference<>();
        StreamObserver<byte[]> collect = new StreamObserver<>() {
            @Override
            public void onNext(byte[] answer) {
                answers.add(answer);
            }

            @Override
            public void onError(Throwable error) {
                failure.set(error);
                over.countDown();
            }

            @Override
            public void onCompleted() {
                over.countDown();
            }
        };
        ClientCall<byte[], byte[]> call = channel.newCall(method, options);
        StreamObserver<byte[]> requests = wanted == 1
                ? ClientCalls.asyncClientStreamingCall(call, collect)
                : ClientCalls.asyncBidiStreamingCall(call, collect);
        for (int i = 0; i < Numbers.PARTS; i++) {
            requests.onNext(message);
        }
        requests.onCompleted();
        over.await();
        if (failure.get() != null) {
            throw new IllegalStateException("call " + n, failure.get());
        }
        check(n, answers, wanted);
    }

    private static void check(int n, List<byte[]> answers, int wanted) {
        boolean good = answers.size() == wanted;
        for (byte[] one : answers) {
            good &= Numbers.number(one) == n && one.length == Numbers.message(n).length;
        }
        if (!good) {
            throw new IllegalStateException("call " + n + ": not its answers");
        }
    }

    private static void expect(int n, int code, Runnable call) {
        Status.Code found = Status.Code.OK;
        try {
            call.run();
        } catch (StatusRuntimeException error) {
            found = error.getStatus().getCode();
        }
        // A server that knows the deadline may cancel the call a moment before the client does;
        // tonic's says so without a content-type, of which grpc-java makes UNKNOWN.
        boolean early = code == 4 && (found == Status.Code.CANCELLED || found == Status.Code.UNKNOWN);
        if (found.value() != code && !early) {
            throw new IllegalStateException("call " + n + ": " + found + " instead of " + code);
        }
    }
}
