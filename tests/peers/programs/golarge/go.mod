module waggle.test/golarge

go 1.26.0
