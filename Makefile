# make demo   shows a hidden port open and close; it changes nothing on this machine
# make quick  runs the tests that need neither root nor other programs, in seconds
# make test   runs the tests; as root, for they make networks of their own and use the real iptables
# demo and test install what they need.

# sudo leaves out where Go's own installation is.
export PATH := $(PATH):/usr/local/go/bin

VERSION := $(shell git describe --tags --always --abbrev=10 --dirty 2>/dev/null || echo unreleased)
# For each system and CPU; without -buildvcs=false a checkout of another owner does not build.
GOBUILD  = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(VERSION)'

.PHONY: build install demo demo-svg quick test kinds race router-test firewall-test arch-test fuzz compare bench check release sizes clean

build:
	$(GOBUILD) -o sesame .

# make install [PREFIX=/usr] [DESTDIR=folder]
install: build
	./sesame install$(if $(PREFIX), --prefix=$(PREFIX))$(if $(DESTDIR), --destdir=$(DESTDIR))

demo: build
	@sh needs.sh 'iptables|nft' ip
	@./sesame demo

# The picture in the README.
demo-svg: build
	./sesame demo | go run .ci/svg.go 'make demo' > build/demo.svg && mv build/demo.svg docs/demo.svg

quick:
	@go run .ci/progress.go -count=1 -tags pure -short ./...

test:
	@sh needs.sh iptables ipset nft ip knockd knock nmap hping3 tcpdump nc curl oathtool telnet ssh ssh-keygen sysctl bash zsh fish busybox mandoc xz shellcheck fwknop fwknopd systemd-analyze logrotate python3 || [ "$$(id -u)" != 0 ]
	@go run .ci/progress.go -count=1 -parallel 4 -timeout 30m ./...

# Which kinds of links the tests try on this kernel, and what tries the others.
kinds:
	@go test -count=1 -v -run '^TestCovered$$' . | grep 'link kind'

# In those left out programs of others do most of the work, and the daemon does what it does in the rest, too.
OTHERS = Managers|Crash|Bans|Saved|LongLists|Release|Walk|MovingOver|ForeignMarks|LinkKinds|(Behind|HiddenLooks|Readme|Openwrt|Install).*
race:
	go test -count=1 -race -parallel 4 -timeout 45m -skip '^Test($(OTHERS))$$' ./...

# Our file on emulated routers, with the kernel and programs of Debian for their CPU, which are kept in ~/.cache/sesame.
router-test:
	@sh needs.sh qemu-system-mipsel cpio modprobe knock
	@GOOS=linux GOARCH=mipsle GOMIPS=softfloat $(GOBUILD) -o build/sesame-linux-mipsle .
	@go test -count=1 -parallel 3 -timeout 10m -tags router -run '^TestRouter$$'

# What programs that manage firewalls do while ports are hidden, and for how long a stranger gets in meanwhile. The programs
# are Debian's. They are kept in ~/.cache/sesame, and installed nowhere but on the tests' own hosts.
firewall-test:
	@sh needs.sh iptables nft ip python3
	@SESAME_FIREWALL_TEST=1 go test -count=1 -parallel 2 -timeout 30m -run '^TestManagers$$'

# The tests of what is pure code (all but those with !pure), on emulated CPUs of either byte order.
EMULATED = mips:qemu-mips mipsle:qemu-mipsel arm:qemu-arm arm64:qemu-aarch64 riscv64:qemu-riscv64
arch-test:
	@sh needs.sh $(foreach e,$(EMULATED),$(lastword $(subst :, ,$(e))))
	@mkdir -p build && printf '%s\n' $(EMULATED) | xargs -P 2 -I{} sh -c 'e={}; arch=$${e%%:*}; \
		GOOS=linux GOARCH=$$arch GOMIPS=softfloat GOARM=5 CGO_ENABLED=0 go test -c -tags pure -o build/test-$$arch . && \
		out=$$($${e##*:} build/test-$$arch -test.short 2>&1) && echo "linux/$$arch: PASS" || \
		{ echo "linux/$$arch: $$out"; exit 1; }'

# Each fuzz target for FUZZTIME; findings stay in testdata/fuzz as seeds.
FUZZTIME = 60s
fuzz:
	@for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' *_test.go); do \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x . || exit 1; \
	done

# Ours beside Debian's knockd on the same packets: make compare SEED=1001 N=1000
SEED = 1
N = 1000
compare:
	SESAME_COMPARE_SEED=$(SEED) SESAME_COMPARE_N=$(N) go test -count=1 -timeout 60m -run 'TestBesideKnockd|TestDifferentFromKnockd' -v .

# What BENCHMARKS.md shows, on this machine; as root, in networks of its own. make bench BENCH_N= is a small run, which
# says only whether the benchmarks still work.
BENCH_N = 200
BENCH = SESAME_BENCH_N=$(BENCH_N) SESAME_BENCH_PROGRAM=$(CURDIR)/sesame go test -count=1 -tags bench -parallel 1 -timeout 60m
bench: build
	@sh needs.sh iptables nft ip knockd
	@$(BENCH) -run 'TestBench' -skip 'TestBenchHostile'
	@$(BENCH) -run 'TestBenchHostile'

# What a machine can see of the source.
check:
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	go vet ./...
	go vet -tags router ./...
	go vet -tags pure ./...
	go vet -tags bench ./...
	go vet .ci/progress.go
	GOOS=darwin go vet ./...
	GOOS=windows go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	@sh needs.sh mandoc
	mandoc -T lint -W warning man/*
	@! mandoc -T lint man/* 2>/dev/null | grep -v 'referenced manual not found'

# The files to publish, in build/release: for every Linux CPU that there are routers of, and the client for macOS and
# Windows. make release CPUS=mipsle: one. CPUS=windows-amd64: another.
release:
	@sh needs.sh xz
	@VERSION='$(VERSION)' GOBUILD="$(GOBUILD)" sh release.sh $(CPUS)

# Writes the sizes of the last release into docs/router.md.
sizes:
	sed -i -e '/^<!-- sizes/,/^<!-- end of sizes/{//!d}' -e '/^<!-- sizes/r build/sizes.md' docs/router.md

clean:
	rm -rf sesame build
