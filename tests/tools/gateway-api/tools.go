//go:build tools

// The module of the resource definitions.
package main

import _ "sigs.k8s.io/gateway-api/apis/v1"
