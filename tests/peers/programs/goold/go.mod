module waggle.test/goold

go 1.17
