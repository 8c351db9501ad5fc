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

// plainManual is a page as text, in paragraphs and with the words of mdoc(7)'s macros left out.
func plainManual(page string) string {
	_, name, _ := strings.Cut(page, "\n.Nm ")
	name, _, _ = strings.Cut(name, "\n")
	name, _, _ = strings.Cut(name, " ")
	var b strings.Builder
	text, literal := "", false
	flush := func(then string) {
		if text != "" {
			b.WriteString(wrap(strings.Repeat(" ", 7), text, 8))
		}
		b.WriteString(then)
		text = ""
	}
	for line := range strings.Lines(strings.NewReplacer("\n.Nm\n", "\n"+name+"\n", `\-`, "-", `\&`, "", `\e`, `\`).Replace(page)) {
		macro, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch {
		case literal && macro != ".Ed":
			b.WriteString(strings.Repeat(" ", 12) + line)
		case macro == ".Sh", macro == ".Ss":
			flush("\n" + rest + "\n")
		case macro == ".It", macro == ".Dl":
			flush("    " + mdocLine(rest) + "\n")
		case macro == ".Pp":
			flush("\n")
		case macro == ".Bl", macro == ".El", macro == ".Bd", macro == ".Ed":
			flush("")
			literal = macro == ".Bd"
		case strings.Contains(`.\" .Dd .Dt .Os`, macro):
		case strings.HasPrefix(line, "."):
			text += " " + mdocLine(line[1:])
		default:
			text += " " + strings.TrimSpace(line)
		}
	}
	flush("")
	return strings.TrimPrefix(b.String(), "\n")
}

// mdoc has what stands for macros.
var mdoc = map[string]string{"Fl": "-", "Nd": "--", "Op": "[", "Oo": "[", "Bq": "[", "Oc": "]", "Pq": "(", "Po": "(", "Pc": ")"}

// mdocLine is a line without its macros.
func mdocLine(line string) string {
	s, end, joined := "", "", true
	words := strings.Fields(line)
	for i, w := range words {
		text, stands := mdoc[w]
		switch {
		case stands:
			end = map[string]string{"Op": "]", "Bq": "]", "Pq": ")"}[w] + end
			w = text
		case w == "Ns":
			joined = true
			continue
		case strings.Contains(" Ar Ic Cm Pa Ev Va Dv Em Sx Ql Dq Nm Xr ", " "+w+" "):
			continue
		case strings.Contains(".,;:)", w) && i == len(words)-1:
			s, end = s+end, ""
		}
		if !joined && !strings.Contains(".,;:)]", w) {
			s += " "
		}
		s, joined = s+w, strings.Contains("-[(", w)
	}
	return s + end
}
