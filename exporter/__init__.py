"""Where spans go: OTLP over HTTP and gRPC, OTLP JSON lines, the terminal."""
