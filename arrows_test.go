package main

import (
	"go/ast"
	"go/build"
	"go/importer"
	goparser "go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestArrows has each file use only files that come after it in the list of the package comment in main.go, on each
// system; and the fields of a type are written only in its own file, but for plain values.
func TestArrows(t *testing.T) {
	order, values := fileList(t)
	for _, system := range []string{"linux", "darwin", "windows"} {
		if system != build.Default.GOOS && testing.Short() {
			continue
		}
		context := build.Default
		context.GOOS, context.CgoEnabled = system, false
		files, err := context.ImportDir(".", 0)
		if err != nil {
			t.Fatal(err)
		}
		fset := token.NewFileSet()
		var parsed []*ast.File
		for _, name := range files.GoFiles {
			f, err := goparser.ParseFile(fset, name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, f)
			if !slices.Contains(order, name) {
				t.Errorf("%s is not in the list in main.go: write it above all files that it uses, and below all that use it", name)
			}
		}
		info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
		config := types.Config{Importer: importer.ForCompiler(fset, "source", nil), Error: func(error) {}, FakeImportC: true}
		self, _ := config.Check("sesame", fset, parsed, info)
		file := func(pos token.Pos) string { return filepath.Base(fset.Position(pos).Filename) }
		told := map[string]bool{}
		for id, used := range info.Uses {
			from, to := file(id.Pos()), ""
			if used.Pkg() == self && used.Pos().IsValid() {
				to = file(used.Pos())
			}
			if to == "" || from == to || told[from+to] {
				continue
			}
			if slices.Index(order, from) > slices.Index(order, to) {
				told[from+to] = true
				t.Errorf("%s: %s uses %s of %s, which is above it in the list in main.go", system, from, id.Name, to)
			}
		}
		for _, f := range parsed {
			ast.Inspect(f, func(n ast.Node) bool {
				var targets []ast.Expr
				switch n := n.(type) {
				case *ast.AssignStmt:
					targets = n.Lhs
				case *ast.IncDecStmt:
					targets = []ast.Expr{n.X}
				}
				for _, target := range targets {
					field, ok := ast.Unparen(target).(*ast.SelectorExpr)
					if !ok || info.Selections[field] == nil || info.Selections[field].Kind() != types.FieldVal {
						continue
					}
					if _, isName := field.X.(*ast.Ident); isName && !types.IsInterface(info.TypeOf(field.X)) {
						if _, isPointer := info.TypeOf(field.X).Underlying().(*types.Pointer); !isPointer {
							continue // a value that is being made
						}
					}
					is := info.Selections[field].Obj()
					from, to := file(field.Pos()), file(is.Pos())
					if is.Pkg() == self && from != to && !slices.Contains(values, to) {
						t.Errorf("%s: %v: the field %s belongs to a type of %s", system, fset.Position(field.Pos()), is.Name(), to)
					}
				}
				return true
			})
		}
	}
}

// fileList reads the list in the package comment: the files in their order, and those that hold plain values.
func fileList(t *testing.T) (order, values []string) {
	f, err := goparser.ParseFile(token.NewFileSet(), "main.go", nil, goparser.ParseComments|goparser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(f.Doc.Text(), "\nThe files, ")
	for _, m := range regexp.MustCompile(`([a-z_0-9]+\.go)(\*?)`).FindAllStringSubmatch(list, -1) {
		if _, err := os.Stat(m[1]); err != nil || slices.Contains(order, m[1]) {
			t.Errorf("%s stands in the list in main.go twice, or is no file", m[1])
		}
		order = append(order, m[1])
		if m[2] != "" {
			values = append(values, m[1])
		}
	}
	return order, values
}
