module waggle.test/bench

go 1.21
