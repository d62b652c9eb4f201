module waggle.test/measured/grpc

go 1.21

require google.golang.org/grpc v1.85.0
