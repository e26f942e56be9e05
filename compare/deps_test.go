package compare

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestPure keeps the package what its comment promises: no I/O, no clock, no goroutine, no randomness. What it may
// import is listed, with the reason.
func TestPure(t *testing.T) {
	allowed := map[string]string{
		"colod/internal/frame": "parsing and rewriting",
		"crypto/aes":           "digests",
		"crypto/cipher":        "digests",
		"encoding/binary":      "nonces",
		"fmt":                  "details of divergences",
		"errors":               "snapshots that cannot be used",
		"reflect":              "snapshots",
		"bytes":                "snapshots",
		"slices":               "snapshots",
		"regexp":               "patterns of tolerances",
		"strings":              "names in tolerances",
		"time":                 "durations only: see below",
		"unsafe":               "snapshots: reading and setting unexported fields of this package and of frame",
	}
	for _, dir := range []string{".", "../internal/frame"} {
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(names) == 0 {
			t.Fatalf("no sources in %s: %v", dir, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, imp := range file.Imports {
				path, _ := strconv.Unquote(imp.Path.Value)
				if dir == "." && allowed[path] == "" || path == "os" || path == "net" || path == "syscall" || strings.HasPrefix(path, "math/rand") {
					t.Errorf("%s imports %s", name, path)
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType, *ast.SendStmt:
					t.Errorf("%s: goroutines and channels do not belong here", name)
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" {
						switch n.Sel.Name {
						case "Duration", "Second", "Millisecond":
						default:
							t.Errorf("%s uses time.%s", name, n.Sel.Name)
						}
					}
				}
				return true
			})
		}
	}
}
