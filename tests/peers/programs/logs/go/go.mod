module waggle.test/logs

go 1.21
