// Package e2e_test tests whole planes: real daemons, guards and services, real
// stores, real faults. See package harness.
//
// A test that measures how long something takes has the machine to itself. One
// that only waits is parallel: such tests run side by side, after all others.
package e2e_test

import (
	"os"
	"testing"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
