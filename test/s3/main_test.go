package s3_test

import (
	"os"
	"testing"

	"github.com/understudy-ha/understudy/test/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
