//go:build tools

// Names the program that `.ci/tools` builds: the client that the docs push bundles with.
package tools

import _ "oras.land/oras/cmd/oras"
