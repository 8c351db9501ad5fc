package main

import (
	_ "embed"
	"os"
	"os/exec"
	"strings"
)

var (
	//go:embed man/sesame.8
	manSesame string
	//go:embed man/knockd.conf.5
	manConfig string
	//go:embed man/knock.1
	manKnock string
)

// manuals are the pages by their file's names.
var manuals = []struct{ file, text string }{{"sesame.8", manSesame}, {"knockd.conf.5", manConfig}, {"knock.1", manKnock}}

// findManual is the page that is called so, with its section or without.
func findManual(name string) (text string, ok bool) {
	for _, m := range manuals {
		if name == m.file || name == m.file[:len(m.file)-2] {
			return m.text, true
		}
	}
	return "", false
}

// showManual has man show a page, and prints it as plain text where that cannot.
func showManual(e env, text string) error {
	if man, err := findCommand("man"); err == nil {
		if f, err := os.CreateTemp("", "sesame"); err == nil {
			defer os.Remove(f.Name())
			_, _ = f.WriteString(text)
			_ = f.Chmod(0o644) // man may read it as another user
			_ = f.Close()
			cmd := exec.Command(man, "-l", f.Name())
			cmd.Stdin, cmd.Stdout = e.stdin, e.stdout
			if cmd.Run() == nil {
				return nil
			}
		}
	}
	_, err := e.stdout.Write([]byte(plainManual(text)))
	return err
}

// plainManual is a page as text. It knows as much of mdoc(7) as our pages have.
func plainManual(page string) string {
	var b strings.Builder
	text, indent, literal := "", 4, false
	flush := func() {
		if text != "" {
			b.WriteString(wrap(strings.Repeat(" ", indent-1), text, indent))
		}
		text = ""
	}
	for line := range strings.Lines(page) {
		line = strings.NewReplacer(`\-`, "-", `\&`, "", `\e`, `\`).Replace(strings.TrimSuffix(line, "\n"))
		macro, rest, _ := strings.Cut(line, " ")
		switch {
		case macro == ".Ed":
			literal = false
		case literal:
			b.WriteString(strings.Repeat(" ", indent+4) + line + "\n")
		case strings.HasPrefix(line, `.\"`), macro == ".Dd", macro == ".Dt", macro == ".Os":
		case macro == ".Sh", macro == ".Ss":
			flush()
			indent = 4
			b.WriteString("\n" + rest + "\n")
		case macro == ".Pp", macro == ".Bl", macro == ".El", macro == ".Bd":
			flush()
			literal = macro == ".Bd"
			b.WriteString(map[string]string{".Pp": "\n"}[macro])
			if macro == ".El" {
				indent = 4
			}
		case macro == ".It":
			flush()
			b.WriteString(strings.Repeat(" ", 4) + mdocLine(rest) + "\n")
			indent = 8
		case macro == ".Dl":
			flush()
			b.WriteString(strings.Repeat(" ", indent+4) + mdocLine(rest) + "\n")
		case strings.HasPrefix(line, "."):
			text += " " + mdocLine(line[1:])
		default:
			text += " " + line
		}
	}
	flush()
	return strings.TrimPrefix(b.String(), "\n")
}

// mdocLine is a line of macros as text.
func mdocLine(line string) string {
	s, end, joined := "", "", true
	add := func(word string) {
		if !joined && !strings.Contains(".,;:)]", word) {
			s += " "
		}
		s, joined = s+word, strings.HasSuffix(word, "(") || strings.HasSuffix(word, "[")
	}
	words := strings.Fields(line)
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case w == "Ns":
			joined = true
		case w == "Op", w == "Pq", w == "Bq", w == "Po":
			add(map[string]string{"Op": "[", "Bq": "[", "Pq": "(", "Po": "("}[w])
			end = map[string]string{"Op": "]", "Bq": "]", "Pq": ")"}[w] + end
		case w == "Pc":
			add(")")
		case w == "Nm" && len(words) == 1:
			add("sesame")
		case w == "Nd":
			add("-")
		case w == "Fl" && i+1 < len(words):
			i++
			add("-" + words[i])
		case w == "Xr" && i+2 < len(words):
			add(words[i+1] + "(" + words[i+2] + ")")
			i += 2
		case len(w) == 2 && w[0] >= 'A' && w[0] <= 'Z' && strings.Contains(" Ar Ic Cm Pa Ev Va Dv Em Sx Ql Dq Nm ", " "+w+" "):
		case strings.Contains(".,;:)", w) && i == len(words)-1:
			s, end = s+end+w, ""
		default:
			add(w)
		}
	}
	return s + end
}
