//go:build ignore

// svg draws what a program prints as a picture of a terminal that reads well on light and dark pages:
//
//	go run .ci/svg.go 'make demo' <transcript >docs/demo.svg
package main

import (
	"bufio"
	"fmt"
	"html"
	"os"
	"regexp"
	"strings"
)

const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]d %[2]d" role="img" aria-label="%[3]s">
<style>
rect { fill: #f6f8fa; stroke: #d0d7de }
text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328; white-space: pre }
.who { fill: #0550ae; font-weight: bold } .open { fill: #1a7f37; font-weight: bold } .closed { fill: #cf222e; font-weight: bold }
@media (prefers-color-scheme: dark) {
rect { fill: #161b22; stroke: #30363d } text { fill: #e6edf3 }
.who { fill: #79c0ff } .open { fill: #56d364 } .closed { fill: #ff7b72 }
}
</style>
<rect x="0.5" y="0.5" width="%[4]d" height="%[5]d" rx="6"/>
`

// Of a character and of a line, in the units of the picture.
const (
	charWidth  = 7.83
	lineHeight = 18
	margin     = 16
)

var (
	prompt  = regexp.MustCompile(`^[\w ,.]*\$ `)
	outcome = regexp.MustCompile(`: (open|closed)( \(RST\))?$`)
)

func main() {
	lines := []string{"$ " + os.Args[1]}
	longest := 0
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		lines = append(lines, in.Text())
		longest = max(longest, len(in.Text()))
	}
	width, height := 2*margin+int(charWidth*float64(longest)), 2*margin+lineHeight*len(lines)
	fmt.Printf(head, width, height, html.EscapeString("A terminal: "+os.Args[1]), width-1, height-1)
	for i, line := range lines {
		line = html.EscapeString(strings.TrimRight(line, " "))
		line = prompt.ReplaceAllString(line, `<tspan class="who">$0</tspan>`)
		line = outcome.ReplaceAllString(line, `: <tspan class="$1">$1$2</tspan>`)
		fmt.Printf("<text x=\"%d\" y=\"%d\" xml:space=\"preserve\">%s</text>\n", margin, margin+lineHeight*i+13, line)
	}
	fmt.Println("</svg>")
}
