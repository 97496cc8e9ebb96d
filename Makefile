# make demo and make test do all their own set-up on a Debian machine with a Swift toolchain.

PREFIX ?= /usr/local
SWIFT ?= swift
SOURCES := $(shell git ls-files '*.swift' 2>/dev/null)
PROTOS := $(wildcard images/*.proto)

.PHONY: demo test check faults moves format lint generate drift bench fuzz build release install install-apache lab lab-down clean setup

demo: setup release ## moves a curl download between two nginx, and back
	scripts/demo

test: setup ## every test; as root, the end-to-end tests make their own network namespaces
	$(MAKE) -C integrations/apache
	$(SWIFT) build --build-tests
	$(SWIFT) test --skip-build --disable-xctest --no-parallel

check: lint drift test ## the gate before each commit

setup:
	@scripts/setup

build:
	$(SWIFT) build

release:
	@scripts/setup build
	$(SWIFT) build -c release --product sc-checkpoint
	$(SWIFT) build -c release --product sc-lab

format: ## rewrites the Swift files
	$(SWIFT) format --in-place $(SOURCES)

lint:
	@$(SWIFT) format lint --strict $(SOURCES)

generate: ## the C code of images/*.proto
	protoc-c -Iimages --c_out=Sources/CSCImage $(PROTOS)
	mv Sources/CSCImage/*.pb-c.h Sources/CSCImage/include/

drift: generate ## generated code is what the .proto files say
	git diff --exit-code -- Sources/CSCImage

bench: setup ## the performance table
	$(SWIFT) build -c release --static-swift-stdlib --scratch-path .build-static
	.build-static/release/sc-bench

fuzz: ## FUZZ_RUNS runs of the image reader with the address sanitizer
	SC_FUZZ=1 $(SWIFT) build --scratch-path .build-fuzz --sanitize=fuzzer --sanitize=address --product fuzz-image -Xcc -fsanitize=fuzzer-no-link
	mkdir -p .build-fuzz/corpus
	SWIFT_BACKTRACE=enable=no .build-fuzz/debug/fuzz-image -runs=$(or $(FUZZ_RUNS),1000000) -max_len=4096 -use_value_profile=1 \
	    -artifact_prefix=.build-fuzz/ .build-fuzz/corpus Tests/SCImageTests/Golden

lab: setup ## two hosts, a router and a client, to try things by hand
	$(SWIFT) build --product sc-lab
	.build/debug/sc-lab up

lab-down:
	.build/debug/sc-lab down

install: ## PREFIX=/usr/local; the Swift runtime is linked in
	$(MAKE) -C Sources/SC install DESTDIR=$(DESTDIR) PREFIX=$(PREFIX)
	@scripts/setup build
	$(SWIFT) build -c release --product sc-checkpoint --static-swift-stdlib --scratch-path .build-static
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 .build-static/release/sc-checkpoint $(DESTDIR)$(PREFIX)/bin/sc-checkpoint
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local/bin|$(PREFIX)/bin|' packaging/sc-checkpoint-agent.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/sc-checkpoint-agent.service

install-apache: ## mod_sc for the system's apache2 (apache2-dev, libxxhash-dev); then a2enmod sc
	$(MAKE) -C integrations/apache install DESTDIR=$(DESTDIR)

moves: setup ## a thousand moves of one live stream, and the client's largest gap of each
	$(SWIFT) build --build-tests
	$(SWIFT) build -c release --product sc-checkpoint --static-swift-stdlib --scratch-path .build-static
	SC_TOOL=$(CURDIR)/.build-static/release/sc-checkpoint SC_MOVES=$(or $(MOVES),1000) \
	    $(SWIFT) test --skip-build --disable-xctest --no-parallel --filter ManyMovesTests

faults: setup ## the fault matrix: every end, the acceptor and the link fail at every stage
	$(SWIFT) build --build-tests
	$(SWIFT) test --skip-build --disable-xctest --no-parallel --filter "FaultMatrixTests|AgentFaultTests"

clean:
	rm -rf .build .build-fuzz .build-static
