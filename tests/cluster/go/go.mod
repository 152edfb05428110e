module cedargate/tests/cluster/go

go 1.24
