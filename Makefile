# make demo   shows a hidden port open and close; it changes nothing on this machine
# make test   runs the tests; as root, for they make networks of their own and use the real iptables
# Both install what they need.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unreleased)
# Most of the standard library is not inlined: on the router that is 130 KB less. What a packet passes through is.
INLINED  = -gcflags=all=-l $(addprefix -gcflags=,$(addsuffix =,sesame encoding/binary hash/maphash net/netip slices cmp math/bits))
LDFLAGS  = -s -w -X main.version=$(VERSION)
GOBUILD  = CGO_ENABLED=0 go build -buildvcs=false -trimpath $(INLINED)
# MIPS routers have the least room. Nothing of ours is inlined there either, and
# segments are aligned to the largest pages of such kernels, 16 KB, and not to 64 KB.
SMALL    = GOMIPS=softfloat CGO_ENABLED=0 go build -buildvcs=false -trimpath -gcflags=all=-l
ARCHES   = amd64 386 arm arm64 mips mipsle riscv64

.PHONY: build demo test race fuzz compare bench check cross clean

build:
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o sesame .

demo: build
	@sh needs.sh 'iptables|nft' ip
	@./sesame demo

test:
	@sh needs.sh iptables nft ip knockd knock nmap hping3 nc telnet bash busybox mandoc
	go test -count=1 -parallel 4 -timeout 30m ./...

race:
	go test -count=1 -race -parallel 3 -timeout 45m ./...

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

# What BENCHMARKS.md shows, on this machine; as root, in networks of its own.
bench: build
	@sh needs.sh iptables nft ip knockd
	@SESAME_BENCH_N=200 SESAME_BENCH_PROGRAM=$(CURDIR)/sesame go test -count=1 -timeout 60m -run 'TestBench$$'

# What a machine can see of the source.
check:
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	@sh needs.sh mandoc
	mandoc -T lint -W warning man/*
	@! mandoc -T lint man/* 2>/dev/null | grep -v 'referenced manual not found'

# Every Linux architecture that there are routers of, and the limit on the file for the smallest.
cross:
	@for arch in $(ARCHES); do \
		echo "linux/$$arch"; \
		case $$arch in \
		mips*) GOOS=linux GOARCH=$$arch $(SMALL) -ldflags '$(LDFLAGS) -R 0x4000' -o build/sesame-linux-$$arch . ;; \
		*) GOOS=linux GOARCH=$$arch $(GOBUILD) -ldflags '$(LDFLAGS)' -o build/sesame-linux-$$arch . ;; \
		esac || exit 1; \
	done
	@size=$$(wc -c < build/sesame-linux-mipsle); echo "mipsle: $$size bytes"; test $$size -le 3500000

clean:
	rm -rf sesame build
