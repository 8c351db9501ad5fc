//go:build linux && !pure

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestReleaseSizes has docs/router.md name the sizes of the files for each CPU that release.sh builds for. The figures are
// compared with the files by release.sh.
func TestReleaseSizes(t *testing.T) {
	script, err := os.ReadFile("release.sh")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("docs/router.md")
	if err != nil {
		t.Fatal(err)
	}
	cpus := regexp.MustCompile(`(?m)set -- (.*)$`).FindSubmatch(script)
	_, table, _ := strings.Cut(string(text), "\n<!-- sizes")
	table, _, _ = strings.Cut(table, "\n<!-- end of sizes -->\n")
	var want []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\S+) \| [2-4]\.\d\d \| [01]\.\d\d \|$`).FindAllStringSubmatch(table, -1) {
		want = append(want, row[1])
	}
	got := strings.Fields(string(cpus[1]))
	n := slices.IndexFunc(got, func(s string) bool { return strings.Contains(s, "-") })
	if n != 8 || !slices.Equal(got[:n], want) {
		t.Errorf("release.sh builds for %q, docs/router.md has sizes for %q", got, want)
	}
	if clients := []string{"darwin-amd64", "darwin-arm64", "windows-amd64", "windows-arm64"}; !slices.Equal(got[max(n, 0):], clients) {
		t.Errorf("release.sh builds clients for %q, want %q", got[max(n, 0):], clients)
	}
}

// TestRelease builds a release twice, in folders of their own and once with nothing compiled before: the bytes are the
// same. The program in it is static and stripped, and says what it is.
func TestRelease(t *testing.T) {
	type release struct{ sums, dir string }
	build := func(env ...string) release {
		dir := t.TempDir()
		copySource(t, dir)
		cmd := exec.Command("make", "release", "VERSION=1.2.3", "CPUS=mipsle windows-amd64")
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), "SOURCE_DATE_EPOCH=1000000000", "MAKEFLAGS="), env...) // not make test's flags
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		sums, err := os.ReadFile(dir + "/build/release/SHA256SUMS")
		if err != nil {
			t.Fatal(err)
		}
		return release{string(sums), dir + "/build/release/"}
	}
	first, second := build(), build("GOCACHE="+t.TempDir(), "TZ=Asia/Tokyo", "LC_ALL=C")
	if first.sums != second.sums || strings.Count(first.sums, "\n") != 4 {
		t.Errorf("got the sums\n%s\nand then\n%s\nwant four, and the same", first.sums, second.sums)
	}
	check := exec.Command("sha256sum", "-c", "SHA256SUMS")
	check.Dir = first.dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}

	const name = "sesame-1.2.3-linux-mipsle"
	program, err := os.ReadFile(first.dir + name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if file.Machine != elf.EM_MIPS || file.Data != elf.ELFDATA2LSB {
		t.Errorf("it is for %v, %v", file.Machine, file.Data)
	}
	for _, section := range file.Sections {
		if slices.Contains([]string{".interp", ".dynamic", ".symtab", ".debug_info", ".zdebug_info"}, section.Name) {
			t.Errorf("it has a section %s: it is not static, or not stripped", section.Name)
		}
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_LOAD && p.Align < 0x4000 {
			t.Errorf("a segment is aligned to %#x, less than a page of some MIPS kernels", p.Align)
		}
	}
	var packed []string
	for h, body := range unpack(t, first.dir+name+".tar.gz") {
		packed = append(packed, strings.TrimPrefix(h.Name, name+"/"))
		if h.Uid != 0 || h.Gid != 0 || h.Uname+h.Gname != "" || !h.ModTime.Equal(time.Unix(1e9, 0)) {
			t.Errorf("%s belongs to %d:%d, %q:%q, and is of %v", h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
		}
		if strings.HasSuffix(h.Name, "/sesame") && (!bytes.Equal(body, program) || h.Mode != 0o755) {
			t.Errorf("%s, with mode %o, is not the file beside it", h.Name, h.Mode)
		}
	}
	if !slices.IsSortedFunc(packed, func(a, b string) int { // as tar sorts: each folder's names
		return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
	}) {
		t.Errorf("the names are not sorted: %q", packed)
	}
	for _, want := range []string{"LICENSE", "README.md", "CHANGELOG.md", "docs/firewall.md", "sesame"} {
		if !slices.Contains(packed, want) {
			t.Errorf("%s is not in it: %q", want, packed)
		}
	}

	const client = "sesame-1.2.3-windows-amd64"
	var inClient []string
	for h, body := range unpack(t, first.dir+client+".tar.gz") {
		inClient = append(inClient, strings.TrimPrefix(h.Name, client+"/"))
		if strings.HasSuffix(h.Name, "/sesame.exe") && (!bytes.HasPrefix(body, []byte("MZ")) || h.Mode != 0o755) {
			t.Errorf("%s, with mode %o, is no program of Windows", h.Name, h.Mode)
		}
	}
	if want := []string{"", "CHANGELOG.md", "LICENSE", "README.md", "docs/", "docs/demo.svg", "docs/firewall.md", "docs/fwknop.md", "docs/knockd.md", "docs/router.md", "docs/why.md", "knock.1", "sesame.exe"}; !slices.Equal(inClient, want) {
		t.Errorf("the client's archive has %q, want %q", inClient, want)
	}
}

// copySource copies the repository's files, as they are now, to dir.
func copySource(t *testing.T, dir string) {
	t.Helper()
	line := "tar --exclude=./.git --exclude=./build --exclude=./sesame -cf - . | tar -xf - -C " + dir
	if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// unpack yields the entries of a .tar.gz.
func unpack(t *testing.T, path string) func(yield func(*tar.Header, []byte) bool) {
	return func(yield func(*tar.Header, []byte) bool) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		plain, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if plain.Name != "" || !plain.ModTime.IsZero() {
			t.Errorf("%s: gzip has kept the name %q and the time %v", filepath.Base(path), plain.Name, plain.ModTime)
		}
		for entries := tar.NewReader(plain); ; {
			h, err := entries.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(entries)
			if err != nil {
				t.Fatal(err)
			}
			if !yield(h, body) {
				return
			}
		}
	}
}

// TestVersion has the version name what a file was built from.
func TestVersion(t *testing.T) {
	program := t.TempDir() + "/sesame"
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=1.2.3", "-o", program, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command(program, "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("sesame 1.2.3 (%s %s/%s)\n", runtime.Version(), runtime.GOOS, runtime.GOARCH); string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}
