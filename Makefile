# What can be done here. `make` alone lists it.
SHELL := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TOOL    := go tool -modfile=tools/go.mod

.PHONY: help run demo-cloud test check torture crash crash-matrix vm bench arm fuzz soak docker clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

run: ## the simulated greenhouse, live in this terminal; needs nothing but Go
	@CGO_ENABLED=0 go build -o build/gateway ./cmd/gateway
	@exec build/gateway run --live docs/examples/sim.yaml

demo-cloud: ## a cloud over mutual TLS loses its line and gets it back; counts what arrived
	@scripts/setup demo
	@scripts/demo-cloud

test: ## set up what is missing and run every test, the race detector on
	@scripts/setup test
	@scripts/test

check: ## before a merge: format, vet, staticcheck, 32-bit tests, ARM binaries started
	@scripts/setup test check
	@test -z "$$(gofmt -l $$(git ls-files '*.go') | tee /dev/stderr)" || { echo 'gofmt: run gofmt -w on these files'; exit 1; }
	go vet ./...
	GOARCH=386 go vet ./...
	$(TOOL) staticcheck ./...
	@scripts/test
	@GOARCH=386 scripts/test
	@$(MAKE) --no-print-directory arm
	@scripts/start-arm
	@scripts/bench-arm
	@scripts/unit-check
	@! command -v shellcheck >/dev/null || shellcheck -S warning $$(git ls-files scripts .ci internal/vm/run '*.sh')

torture: ## everything that can go wrong upstream, LONG=10s each; what local clients notice of it
	@scripts/setup test
	@CGO_ENABLED=0 go build -modfile=tools/cluster/go.mod -o build/nats-server github.com/nats-io/nats-server/v2
	go test -count 1 -timeout 1h -v -run 'TestTorture|TestForgetfulCloud|TestBlackholeDNS|TestCluster|TestHerd' ./internal/e2e \
		-torture $(or $(LONG),10s) -herd 1000 -nats '$(CURDIR)/build/nats-server'

vm: ## the drivers against a real kernel's simulated pins
	@scripts/setup vm
	@internal/vm/build.sh >/dev/null
	go test -count 1 -exec "$(CURDIR)/internal/vm/run" ./board/... ./sensors/...

crash: ## kill the gateway and cut its power, ROUNDS (200) times each, and count what is lost
	@scripts/setup test
	go test -count 1 -v -timeout 24h ./internal/crash -rounds $(or $(ROUNDS),200)

crash-matrix: SHELL := /bin/bash -o pipefail
crash-matrix: ## kill gateway and cloud KILLS (30) times and cut their line CUTS (250) times in each of 16 ways; a table
	@scripts/setup test
	go test -count 1 -v -timeout 24h ./bridge -run TestExactlyOnceThroughEveryCut -places 90 | grep -v -e '^=== ' -e '^    --- '
	go test -count 1 -v -timeout 24h ./internal/crash -run TestMatrix -kills $(or $(KILLS),30) -cuts $(or $(CUTS),250) | grep -v -e '^=== '

bench: arm ## the figures of the README, beside mosquitto; ROWS=all for every figure
	@scripts/setup test
	@CGO_ENABLED=0 go build -o build/bench ./internal/bench
	@build/bench -dist dist $(if $(ROWS),-rows $(ROWS))
	@go test -run '^$$' -bench 'SlowDisk|Backlog' -benchtime 1x ./offline
	@scripts/own-disk go test -run '^$$' -bench Flash -benchtime 1x ./offline

arm: ## static binaries for arm/6, arm/7, arm64 and amd64 in dist/
	@VERSION=$(VERSION) scripts/build

fuzz: ## each fuzzer for FUZZTIME (30s)
	@scripts/fuzz

soak: ## clients of all versions come, go and break at random for SOAK (30m), then the books must be equal
	@scripts/setup test
	go test -count 1 -v -timeout 24h ./internal/hostile -run '^TestSoak$$' -soak $(or $(SOAK),30m)

docker: ## build Dockerfile.arm and start what came out of it
	@scripts/setup docker
	@scripts/docker-check

clean: ## remove what was built
	rm -rf build dist
