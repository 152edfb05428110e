//go:build tools

// Package helm keeps the module's one command in go.mod: `.ci/tools` builds it for the tests of the charts.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
