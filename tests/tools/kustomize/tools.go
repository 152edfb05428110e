//go:build tools

// Package kustomize keeps the module's one command in go.mod: `.ci/tools` builds it for the tests of the Kustomize component.
package kustomize

import _ "sigs.k8s.io/kustomize/kustomize/v5"
