package s3_test

import (
	"os"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// requestLimit bounds a request of the tests' own.
const requestLimit = 30 * time.Second
