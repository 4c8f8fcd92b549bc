// Package e2e_test tests whole planes: real daemons, guards and services, real
// stores, real faults. See package harness.
package e2e_test

import (
	"os"
	"testing"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
