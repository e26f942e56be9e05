# colod: build, try, test. 'make help' lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

GO      ?= go
BIN     := bin/colod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Packages whose tests run under the race detector: those with goroutines.
RACE := ./coordinator/... ./proxy/... ./qmp/... ./internal/lab/client/... ./internal/report ./internal/record
# All others but the end-to-end tests, which run alone.
UNIT = $(shell comm -23 <($(GO) list ./... | grep -v /internal/lab/e2e | sort) <($(GO) list $(RACE) | sort))

# Where campaigns write their figures, one JSON object a line.
RESULTS ?= $(CURDIR)/results.jsonl
# The campaign that 'make campaign' runs.
TEST ?= TestTorture

# A program that shows whether a Debian package is there, and the package.
TOOLS := qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils mkfs.ext4:e2fsprogs ip:iproute2 bridge:iproute2 ethtool:ethtool \
	tcpdump:tcpdump ssh:openssh-client scp:openssh-client redis-cli:redis-tools iperf3:iperf3 wget:wget curl:curl \
	socat:socat cc:gcc dpkg-deb:dpkg etcd:etcd-server promtool:prometheus tshark:tshark \
	git:git tmux:tmux chromium:chromium node:nodejs npm:npm
# The same for what checks deploy.
CHECK_TOOLS := systemd-analyze:systemd shellcheck:shellcheck yamllint:yamllint ansible-lint:ansible-lint ansible-playbook:ansible \
	lintian:lintian dpkg-deb:dpkg xz:xz-utils man:man-db zsh:zsh fish:fish xmllint:libxml2-utils ocf-tester:resource-agents

# Where the modules of npm are that drive the pages; never in the tree.
WEB := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/colod/web

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup setup-check
setup-check: TOOLS := $(CHECK_TOOLS)
setup-check: ## Install what check-deploy needs and is missing, in the same way
setup: ## Install what is missing on this machine, from Debian's packages (needs root)
setup setup-check:
	@missing=; \
	for t in $(TOOLS); do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v "$${t%%:*}" >/dev/null || missing="$$missing $${t##*:}"; \
	done; \
	[[ -f /usr/include/stdio.h ]] || missing="$$missing libc6-dev"; \
	[[ -s /etc/ssl/certs/ca-certificates.crt ]] || missing="$$missing ca-certificates"; \
	if [[ -n "$$missing" ]]; then \
		if [[ $$(id -u) != 0 ]]; then echo "setup: run as root to install:$$missing" >&2; exit 1; fi; \
		missing=$$(tr ' ' '\n' <<<"$$missing" | sort -u | tr '\n' ' '); \
		echo "setup: installing $$missing"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -q; \
		apt-get install -q -y --no-install-recommends $$missing; \
		if [[ "$$missing" == *etcd-server* && -d /run/systemd/system ]]; then systemctl disable -q --now etcd; fi; \
		if [[ "$$missing" == *prometheus* && -d /run/systemd/system ]]; then systemctl disable -q --now prometheus; fi; \
	fi
	@if ! cmp -s coordinator/web/test/package-lock.json $(WEB)/installed; then \
		echo "setup: installing Playwright in $(WEB)"; \
		mkdir -p $(WEB); \
		cp coordinator/web/test/{package.json,package-lock.json,.npmrc} $(WEB)/; \
		npm ci --no-audit --no-fund --loglevel=error --prefix $(WEB); \
		cp coordinator/web/test/package-lock.json $(WEB)/installed; \
	fi
	@command -v $(GO) >/dev/null || { echo "setup: install Go 1.26 or newer" >&2; exit 1; }

.PHONY: build
build: ## Build bin/colod
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/colod

.PHONY: demo
demo: setup build ## See a guest survive the loss of its host (about a minute; needs root)
	./$(BIN) lab demo $(DEMO)

.PHONY: lint
lint: ## Check format, go vet and staticcheck
	@unformatted=$$(gofmt -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	if [[ -n "$$unformatted" ]]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...

.PHONY: unit
unit: ## Run the tests of packages without goroutines
	$(GO) test -timeout 10m $(UNIT)

.PHONY: model
model: ## Check the model of the pair protocol with spin (not a part of test)
	docs/model/check.sh

.PHONY: race
race: ## Run the tests of concurrent packages under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 15m $$($(GO) list $(RACE))

.PHONY: e2e
e2e: ## Run the end-to-end tests: real QEMU pairs, real clients, real faults
	$(GO) test -count=1 -v -timeout 30m ./internal/lab/e2e

.PHONY: test
test: setup lint unit race e2e check-deploy ## Everything that has to pass before a change goes in

.PHONY: test-web
test-web: setup ## The pages in Chromium, those of a real pair too: a part of test, alone (PICTURES=DIR leaves pictures)
	COLOD_PICTURES=$(PICTURES) $(GO) test -count=1 -timeout 10m -run '^(TestPage|TestHTMLInChromium)$$' ./coordinator ./internal/report
	COLOD_PICTURES=$(PICTURES) $(GO) test -count=1 -v -timeout 20m -run '^TestReports$$' ./internal/lab/e2e

.PHONY: test-long
test-long: setup ## The end-to-end campaigns in full, with their figures (hours)
	COLOD_LONG=1 COLOD_RESULTS=$(RESULTS) $(GO) test -count=1 -v -timeout 12h ./internal/lab/e2e

.PHONY: campaign
campaign: setup ## One end-to-end campaign in full: make campaign TEST=TestLossOfNode
	COLOD_LONG=1 COLOD_RESULTS=$(RESULTS) $(GO) test -count=1 -v -timeout 4h -run '^$(TEST)$$' ./internal/lab/e2e

.PHONY: bench
bench: setup build ## Measure everything beside its peers, forty minutes (root; ONLY=NAME,NAME for some); writes bench/results and bench/REPORT.*
	$(GO) run ./bench/cmd/bench $(if $(ONLY),-only $(ONLY))

.PHONY: bench-quick
bench-quick: setup build ## The same, a few minutes, into a temporary directory: shows that it works
	$(GO) run ./bench/cmd/bench -quick $(if $(ONLY),-only $(ONLY))

.PHONY: bench-report
bench-report: ## Write bench/REPORT.* anew from bench/results
	$(GO) run ./bench/cmd/bench -render

.PHONY: bench-compare
bench-compare: ## Compare the stages of the hot path with a revision: make bench-compare BASE=REVISION (WHAT=REGEXP, ROUNDS=10)
	@[[ -n "$(BASE)" ]] || { echo "bench-compare: BASE=REVISION is missing" >&2; exit 2; }
	bench/compare.sh $(BASE) $(WHAT)

.PHONY: deb
deb: build ## Build the Debian package in dist (reproducible)
	deploy/deb/build.sh $(VERSION) $(BIN) dist

.PHONY: tarball
tarball: build ## Build the tarball with checksums and bill of materials in dist
	deploy/tarball/build.sh $(VERSION) $(BIN) dist

.PHONY: check-deploy
check-deploy: setup-check build ## Check what is in deploy: units, scripts, playbooks, package, completion, man pages
	deploy/check.sh $(BIN)

.PHONY: test-ocf
test-ocf: setup setup-check build ## Run Pacemaker's ocf-tester with the agent against a real pair (root; some minutes)
	deploy/ocf/test.sh $(BIN)

.PHONY: test-libvirt
test-libvirt: setup build ## Adopt a domain of a real libvirtd (root; needs libvirt-daemon, libvirt-daemon-driver-qemu, libvirt-clients)
	deploy/libvirt/test.sh $(BIN)

.PHONY: test-deploy
test-deploy: build ## Playbooks and guide on two booted hosts (root; needs ansible, debootstrap, openssh-client)
	deploy/test/byhand.sh $(BIN)
	deploy/test/playbooks.sh $(BIN)

.PHONY: clean
clean: ## Remove what was built; the download cache stays
	rm -rf bin dist
