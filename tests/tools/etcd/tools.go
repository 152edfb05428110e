//go:build tools

// Package tools pins etcd, the store of the Kubernetes that `make test-cluster` runs, and its dependencies.
package tools

import _ "go.etcd.io/etcd/server/v3"
