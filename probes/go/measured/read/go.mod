module waggle.test/measured/read

go 1.21
