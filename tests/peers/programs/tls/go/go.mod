module waggle.test/tls

go 1.26
