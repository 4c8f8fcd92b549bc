# Understudy. `make` alone says what there is.
#
# To add a suite to `make test`: append its name to SUITES and write a target
# suite-NAME whose recipe is one call of $(CHECK) or $(GOTEST).

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
ARGS     ?=
BIN      := bin
RESULTS  := $(BIN)/results
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)

# Tools are built at these versions into bin/ and stay out of go.mod.
# golangci-lint brings gofumpt v0.12.0 and gci along as its formatters.
GOLANGCI_LINT_VERSION := v2.15.0
GOTESTSUM_VERSION     := v1.13.0
GOVULNCHECK_VERSION   := v1.8.0
GOLANGCI_LINT := $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION)
GOTESTSUM     := $(BIN)/gotestsum-$(GOTESTSUM_VERSION)
GOVULNCHECK   := $(BIN)/govulncheck-$(GOVULNCHECK_VERSION)

# S3 servers for the tests; test/s3/server names the same versions.
VERSITYGW_VERSION     := v1.8.0
VERSITYGW_OLD_VERSION := v1.7.0
MINIO_VERSION         := v0.0.0-20260212201848-7aac2a2c5b7c
VERSITYGW     := $(BIN)/versitygw-$(VERSITYGW_VERSION)
VERSITYGW_OLD := $(BIN)/versitygw-$(VERSITYGW_OLD_VERSION)
MINIO         := $(BIN)/minio-$(MINIO_VERSION)

# Where test/hdfs/fetch puts Hadoop, and make hdfs-up its files.
HADOOP   := $(BIN)/hadoop
HDFS_DIR ?= /tmp/understudy-hdfs

# What `make test` runs, in this order.
SUITES ?= format lint unit sim e2e faults s3 nfs hdfs chaos model

# What `make conformance-all` runs: a target conformance-NAME each.
CONFORMANCE += s3
CONFORMANCE += nfs
CONFORMANCE += hdfs

# Packages of the slow suites; unit is everything else.
SIM_PKGS   := ./pkg/election/...
E2E_PKGS   := ./test/e2e
FAULTS_PKG := ./test/faults
CHAOS_PKG  := ./test/chaos
S3_PKG     := ./test/s3
NFS_PKG    := ./test/nfs
HDFS_PKG   := ./test/hdfs
SLOW       := /pkg/election/sim(/|$$)|/test/(bench|bench/master|e2e|faults|chaos|s3|nfs|hdfs|hdfs/secure)$$
UNIT_PKGS   = $(shell $(GO) list -e ./... | grep -vE '$(SLOW)')

# The race detector needs a C compiler. Without one the tests still run, and
# the run says so; with CI=true they fail instead.
ifeq ($(CI),true)
RACE := -race
else
RACE := $(if $(shell command -v $(firstword $(shell $(GO) env CC)) 2>/dev/null),-race)
endif

CHECK  := $(BIN)/suite -dir $(RESULTS) check
# $(call GOTEST,NAME) ARGUMENTS OF go test
GOTEST  = $(BIN)/suite -dir $(RESULTS) gotest $(1) -- $(GOTESTSUM) --format=pkgname-and-test-fails --format-hide-empty-pkg --jsonfile=$(RESULTS)/$(1).json -- -count=1

.DEFAULT_GOAL := help
.PHONY: help demo build install test race lint fmt cover check clean sim repro e2e faults chaos fuzz bench vuln crashes model nfs hdfs-up hdfs-down conformance-all need-go

help: ## this list
	@echo 'Understudy keeps one service alive on several machines that share only storage.'
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: build ## three nodes and a sample service on this machine; ARGS="..." for its flags
	@$(BIN)/understudy demo $(ARGS)

build: need-go ## bin/understudy
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/understudy ./cmd/understudy

install: build ## into PREFIX (default /usr/local), below DESTDIR if set
	install -D -m 0755 $(BIN)/understudy $(DESTDIR)$(PREFIX)/bin/understudy

test: need-go $(BIN)/suite ## every test: format, lint, unit with the race detector, simulation, end to end, chaos
	@rm -f $(RESULTS)/*.result
	@$(if $(RACE),,echo 'No C compiler: the tests run without the race detector.')
	@failed=0; \
	for s in $(SUITES); do $(MAKE) -s --no-print-directory suite-$$s || failed=1; done; \
	$(BIN)/suite -dir $(RESULTS) total $(SUITES) || failed=1; \
	exit $$failed

race: ## the unit tests only, with the race detector
	@$(MAKE) -s --no-print-directory test SUITES=unit

sim: ## the simulator and the explorer only; SEEDS=n for that many seeds
	@SIM_SEEDS=$(SEEDS) $(MAKE) -s --no-print-directory test SUITES=sim

repro: need-go ## one seed of the simulator with its trace: SEED=s
	@[ -n '$(SEED)' ] || { echo 'Which seed? make repro SEED=17' >&2; exit 2; }
	@SIM_SEED=$(SEED) $(GO) test -count=1 -v -run '^TestSeeds$$' ./pkg/election/sim

e2e: ## the end-to-end tests only
	@$(MAKE) -s --no-print-directory test SUITES=e2e

faults: need-go ## a failing directory, in every way and place, held to docs/safety.md; UPDATE=1 writes its table
	FAULTS=$(if $(UPDATE),update,all) $(GO) test -count=1 -v -timeout=30m $(FAULTS_PKG)

chaos: need-go $(if $(filter s3,$(STORE)),$(VERSITYGW)) ## real nodes under faults, judged by their clients: T=10m (default 1m), SEED=s, STORE=s3|hdfs
	$(if $(filter hdfs,$(STORE)),test/hdfs/fetch $(HADOOP))
	HDFS_JARS=$(abspath $(HADOOP)) CHAOS_T=$(T) CHAOS_SEED=$(SEED) CHAOS_STORE=$(STORE) $(GO) test -count=1 -v -timeout=4h $(CHAOS_PKG)

conformance-all: need-go $(addprefix conformance-,$(CONFORMANCE)) ## the stores on every real server there is, in full: takes an hour

fuzz: need-go ## every fuzz target, one after the other, for T=10m each (default 1m)
	@failed=0; \
	for f in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | sort); do \
		for n in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$f); do \
			echo "$$n in $$(dirname $$f)"; \
			$(GO) test -timeout=0 -run='^$$' -fuzz="^$$n$$" -fuzztime=$(or $(T),1m) -fuzzminimizetime=200x $$(dirname $$f) || failed=1; \
		done; \
	done; exit $$failed

bench: need-go $(VERSITYGW) ## ratios of one run: the persisted state beside the raw store; /master beside a bare TLS handler; promotion with a million keys (3 GiB of memory and disk)
	$(GO) test -count=1 -v -p=1 -timeout=30m ./test/bench/...

crashes: need-go ## the persisted state, struck at ten thousand requests to the store; POINTS=n for that many
	CRASH_POINTS=$(or $(POINTS),10000) $(GO) test -count=1 -v -timeout=2h -run TestCrashPoints ./pkg/ha

model: ## the protocol as models, searched exhaustively by spin; UPDATE=1 keeps new counter-examples
	@UPDATE=$(UPDATE) test/model/run

nfs: conformance-nfs ## the posix store and whole nodes on real kernel NFS, in User Mode Linux; as root, half an hour

hdfs-up: need-go ## a real HDFS on loopback with two NameNodes; ARGS="failover", "kill nn1", "hang nn1" ... does that to it
	@test/hdfs/fetch $(HADOOP)
	@$(GO) build -o $(BIN)/hdfs-lab ./test/hdfs/lab
	@HDFS_JARS=$(abspath $(HADOOP)) $(BIN)/hdfs-lab $(HDFS_DIR) $(or $(ARGS),up)

hdfs-down: ## end it
	@HDFS_JARS=$(abspath $(HADOOP)) $(BIN)/hdfs-lab $(HDFS_DIR) down

lint: $(GOLANGCI_LINT) ## golangci-lint, which also holds the dependency directions
	@$(GOLANGCI_LINT) run ./...

vuln: $(GOVULNCHECK) ## known vulnerabilities in what is called of other modules; asks vuln.go.dev
	@$(GOVULNCHECK) ./...

fmt: $(GOLANGCI_LINT) ## rewrite the sources with gofumpt and sorted imports
	@$(GOLANGCI_LINT) fmt ./...

check: ## what to run before each commit: format, lint and the unit tests
	@$(MAKE) -s --no-print-directory test SUITES='format lint unit'

cover: need-go ## coverage of the unit tests: coverage.out, coverage.html, and the sum
	@$(GO) test -count=1 -coverpkg=./... -coverprofile=coverage.out $(UNIT_PKGS) >$(BIN)/cover.log 2>&1 || { cat $(BIN)/cover.log; exit 1; }
	@$(GO) tool cover -html=coverage.out -o coverage.html
	@$(GO) tool cover -func=coverage.out | tail -1

clean: ## remove what the other targets made
	rm -rf $(BIN) dist coverage.out coverage.html

# Suites.

.PHONY: $(addprefix suite-,$(SUITES))

suite-format: $(BIN)/suite $(GOLANGCI_LINT)
	@$(CHECK) format -- sh -c 'files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt would change: $$files"; exit 1; }; $(GOLANGCI_LINT) fmt --diff ./...'

suite-lint: $(BIN)/suite $(GOLANGCI_LINT)
	@$(CHECK) lint -- sh -c '$(GO) build ./... && $(GOLANGCI_LINT) run ./...'

# Whatever is built with -race would sleep for a second before it exits.
suite-unit: $(BIN)/suite $(GOTESTSUM)
	@GORACE=atexit_sleep_ms=0 $(call GOTEST,unit) -timeout=15m $(RACE) -shuffle=on $(UNIT_PKGS)

# The race detector would make the simulator, which is one goroutine, ten
# times slower and find nothing.
suite-sim: $(BIN)/suite $(GOTESTSUM)
	@$(call GOTEST,sim) -timeout=30m $(SIM_PKGS)

# Timing is what most of these measure, so nothing else runs beside them. What
# only waits runs four at a time in the end.
suite-e2e: $(BIN)/suite $(GOTESTSUM) build
	@$(call GOTEST,e2e) -timeout=60m -p=1 -parallel=4 $(E2E_PKGS)

# The short form of `make faults`: a few of them, in each place.
suite-faults: $(BIN)/suite $(GOTESTSUM)
	@$(call GOTEST,faults) -timeout=15m $(FAULTS_PKG)

# The short form of `make chaos`: whatever the seed chooses, a minute of it.
suite-chaos: $(BIN)/suite $(GOTESTSUM)
	@$(call GOTEST,chaos) -timeout=15m $(CHAOS_PKG)

# The S3 store on a real server, in its short form.
suite-s3: $(BIN)/suite $(GOTESTSUM) $(VERSITYGW) build
	@$(call GOTEST,s3) -timeout=15m -parallel=6 $(S3_PKG)

.PHONY: conformance-all $(addprefix conformance-,$(CONFORMANCE))

conformance-s3: need-go $(VERSITYGW) $(VERSITYGW_OLD) $(MINIO)
	S3_FULL=1 $(GO) test -count=1 -v -timeout=3h -parallel=1 $(S3_PKG)

# The posix store and whole nodes on kernel NFS, in the short form. Without
# root or what it fetches the test is skipped, fails in CI, and says why.
suite-nfs: $(BIN)/suite $(GOTESTSUM)
	@test/nfs/fetch $(BIN)/nfs-image || true
	@NFS_IMAGE=$(abspath $(BIN)/nfs-image) $(call GOTEST,nfs) -timeout=15m $(NFS_PKG)

conformance-nfs: need-go
	test/nfs/fetch $(BIN)/nfs-image
	NFS_FULL=1 NFS_IMAGE=$(abspath $(BIN)/nfs-image) $(GO) test -count=1 -v -timeout=4h $(NFS_PKG)

# The HDFS store and planes on a real HDFS, in the short form. Without Java,
# Maven or a network the test is skipped, fails in CI, and says why.
suite-hdfs: $(BIN)/suite $(GOTESTSUM) $(VERSITYGW) build
	@test/hdfs/fetch $(HADOOP) || true
	@HDFS_JARS=$(abspath $(HADOOP)) $(call GOTEST,hdfs) -timeout=15m $(HDFS_PKG)

conformance-hdfs: need-go $(VERSITYGW)
	test/hdfs/fetch $(HADOOP)
	HDFS_FULL=1 HDFS_JARS=$(abspath $(HADOOP)) $(GO) test -count=1 -v -timeout=3h -p=1 $(HDFS_PKG) $(HDFS_PKG)/secure

# The models at smaller bounds.
suite-model: $(BIN)/suite
	@if [ "$(CI)" = true ] || { command -v spin && command -v gcc; } >/dev/null; \
	then $(CHECK) model -- test/model/run short; \
	else echo 'model    0 passed, 0 failed, 1 skipped  (spin or gcc is missing; on Debian: apt-get install spin gcc)'; \
		mkdir -p $(RESULTS) && echo '{"Skipped":1}' >$(RESULTS)/model.result; fi

# Tools.

need-go:
	@$(GO) list -m >/dev/null 2>&1 || { $(GO) version; $(GO) list -m; \
		echo 'Understudy needs Go 1.26, or Go 1.21 and a network to fetch it from: https://go.dev/dl/'; exit 1; } >&2

$(BIN)/suite: $(wildcard test/suite/*.go) | need-go
	@$(GO) build -o $@ ./test/suite

# A go install of its own makes no use of, and no change to, our go.mod.
define tool
	@echo 'Building $(notdir $(1)), once ...' >&2
	@mkdir -p $(BIN)/.tool && GOBIN=$(abspath $(BIN)/.tool) $(GO) install $(2)@$(3) 2>$(BIN)/.tool/log || { cat $(BIN)/.tool/log >&2; exit 1; }
	@mv $(BIN)/.tool/$(4) $@
endef

$(GOLANGCI_LINT): | need-go
	$(call tool,$@,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(GOLANGCI_LINT_VERSION),golangci-lint)

$(VERSITYGW): | need-go
	$(call tool,$@,github.com/versity/versitygw/cmd/versitygw,$(VERSITYGW_VERSION),versitygw)

$(VERSITYGW_OLD): | need-go
	$(call tool,$@,github.com/versity/versitygw/cmd/versitygw,$(VERSITYGW_OLD_VERSION),versitygw)

$(MINIO): | need-go
	$(call tool,$@,github.com/minio/minio,$(MINIO_VERSION),minio)

$(GOVULNCHECK): | need-go
	$(call tool,$@,golang.org/x/vuln/cmd/govulncheck,$(GOVULNCHECK_VERSION),govulncheck)

$(GOTESTSUM): | need-go
	$(call tool,$@,gotest.tools/gotestsum,$(GOTESTSUM_VERSION),gotestsum)
