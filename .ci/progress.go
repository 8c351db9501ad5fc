// Progress runs go test with the arguments that it is given, and shows how far it is: a line every few seconds, what
// a test that fails has printed, and at the end why tests were skipped, and how many passed. It fails if go test does.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// logged is a line that a test has printed by itself.
var logged = regexp.MustCompile(`(?m)^ +\w+\.go:\d+: (.*)$`)

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		log.Fatal(err)
	}
	began, shown := time.Now(), time.Now()
	count := map[string]int{}      // tests, by what became of them
	skipped := map[string]int{}    // tests and parts of them, by the reason
	printed := map[string]string{} // by tests that have not ended
	summary := func() string {
		return fmt.Sprintf("%d passed, %d failed, %d skipped", count["pass"], count["fail"], count["skip"])
	}
	for lines := json.NewDecoder(out); ; {
		var l struct{ Action, Test, Output string } // go doc test2json
		if err := lines.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			log.Fatalf("reading what go test prints: %v", err)
		}
		printed[l.Test] += l.Output
		ended := l.Action == "pass" || l.Action == "fail" || l.Action == "skip"
		switch {
		case l.Test == "": // of the package, or the compiler's
			fmt.Print(strings.TrimPrefix(l.Output, "PASS\n"))
			if l.Action == "fail" && count["fail"] == 0 {
				count["fail"]++ // not even one test has
			}
		case l.Action == "fail":
			fmt.Print(printed[l.Test])
		case l.Action == "skip":
			if all := logged.FindAllStringSubmatch(printed[l.Test], -1); all != nil {
				skipped[all[len(all)-1][1]]++
			}
		}
		if ended {
			delete(printed, l.Test)
		}
		if ended && l.Test != "" && !strings.Contains(l.Test, "/") {
			count[l.Action]++
			if time.Since(shown) >= 5*time.Second {
				shown = time.Now()
				fmt.Printf("%4.0f s: %s; %s has ended\n", time.Since(began).Seconds(), summary(), l.Test)
			}
		}
	}
	for _, test := range slices.Sorted(maps.Keys(printed)) {
		fmt.Print(printed[test]) // something ended them all
	}
	for _, why := range slices.Sorted(maps.Keys(skipped)) {
		fmt.Printf("skipped: %d: %s\n", skipped[why], why)
	}
	fmt.Println(summary())
	if cmd.Wait() != nil {
		os.Exit(1)
	}
}
