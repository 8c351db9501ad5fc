// Progress runs go test with the arguments that it is given, and shows how far it is: a line every few seconds, what
// a test that fails has printed, and at the end why tests were skipped, and how many passed. It fails if go test does.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// logged is the last line that a test has printed by itself.
var logged = regexp.MustCompile(`(?s).*\n +\w+\.go:\d+: ([^\n]*)`)

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		log.Fatal(err)
	}
	began, shown := time.Now(), time.Now()
	count := map[string]int{}      // tests, by what became of them
	skipped := map[string]int{}    // tests, by the reason
	reason := map[string]string{}  // of a test, a part of which was skipped at least
	printed := map[string]string{} // by tests that have not ended
	summary := func() string {
		return fmt.Sprintf("%d passed, %d failed, %d skipped", count["pass"], count["fail"], count["skip"])
	}
	for lines := json.NewDecoder(out); ; {
		var l struct{ Action, Test, Output string } // go doc test2json
		if lines.Decode(&l) != nil {
			break
		}
		if l.Test == "" { // of the package, or the compiler's
			fmt.Print(strings.TrimPrefix(l.Output, "PASS\n"))
			continue
		}
		printed[l.Test] += l.Output
		if l.Action != "pass" && l.Action != "fail" && l.Action != "skip" {
			continue
		}
		test, _, part := strings.Cut(l.Test, "/")
		if l.Action == "fail" {
			fmt.Print(printed[l.Test])
		} else if why := logged.FindStringSubmatch(printed[l.Test]); l.Action == "skip" && why != nil {
			reason[test] = why[1]
		}
		delete(printed, l.Test)
		if part {
			continue
		}
		if reason[test] != "" && l.Action != "fail" {
			l.Action = "skip"
			skipped[reason[test]]++
		}
		count[l.Action]++
		if time.Since(shown) >= 5*time.Second {
			shown = time.Now()
			fmt.Printf("%4.0f s: %s; %s has ended\n", time.Since(began).Seconds(), summary(), test)
		}
	}
	if cmd.Wait() != nil && count["fail"] == 0 {
		count["fail"]++ // it came to no test
	}
	for _, text := range printed {
		fmt.Print(text) // something ended them all
	}
	for _, why := range slices.Sorted(maps.Keys(skipped)) {
		fmt.Printf("skipped: %d: %s\n", skipped[why], why)
	}
	fmt.Println(summary())
	os.Exit(min(count["fail"], 1))
}
