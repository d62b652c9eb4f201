module waggle.test/measured/std

go 1.17
