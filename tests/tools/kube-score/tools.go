//go:build tools

// Package kubescore keeps the module's one command in go.mod: `.ci/tools` builds it for the policy checks of the charts.
package kubescore

import _ "github.com/zegl/kube-score/cmd/kube-score"
