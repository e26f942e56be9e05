package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// The test binary is a Go binary too: its modules are known.
func TestOwnBinary(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1790000000, 0)
	var a, b bytes.Buffer
	if err := run(self, "colod", "1.2", at, &a); err != nil {
		t.Fatal(err)
	}
	if err := run(self, "colod", "1.2", at, &b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two documents of one binary differ")
	}
	var doc document
	dec := json.NewDecoder(&a)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if doc.Format != "CycloneDX" || doc.Metadata.Component.Version != "1.2" || doc.Metadata.Timestamp != "2026-09-21T14:13:20Z" {
		t.Errorf("head: %+v", doc)
	}
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(doc.SerialNumber) {
		t.Errorf("serial number %s is no UUID", doc.SerialNumber)
	}
	refs := map[string]bool{}
	for _, c := range doc.Components {
		if refs[c.Ref] {
			t.Errorf("%s stands twice", c.Ref)
		}
		refs[c.Ref] = true
	}
	if len(doc.Dependencies) != 1 || len(doc.Dependencies[0].DependsOn) != len(doc.Components) {
		t.Errorf("dependencies %+v do not name the %d components", doc.Dependencies, len(doc.Components))
	}
}

func TestModules(t *testing.T) {
	const sum = "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	info := &debug.BuildInfo{GoVersion: "go1.26.8", Deps: []*debug.Module{
		{Path: "z.example/z", Version: "v1.0.0", Sum: sum},
		{Path: "a.example/old", Version: "v1.0.0", Replace: &debug.Module{Path: "a.example/new", Version: "v2.0.0", Sum: sum}},
	}}
	doc, err := describe(info, [32]byte{1}, "colod", "1", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(doc.Dependencies[0].DependsOn, " ")
	want := "pkg:golang/a.example/new@v2.0.0 pkg:golang/std@1.26.8 pkg:golang/z.example/z@v1.0.0"
	if got != want {
		t.Errorf("components %s, want %s", got, want)
	}
	info.Deps[0].Sum = "h2:x"
	if _, err := describe(info, [32]byte{1}, "colod", "1", time.Unix(0, 0)); err == nil || !strings.Contains(err.Error(), "z.example/z") {
		t.Errorf("a sum of another kind: %v", err)
	}
}

func TestNotGo(t *testing.T) {
	if err := run("main_test.go", "x", "1", time.Unix(0, 0), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "main_test.go") {
		t.Fatalf("a text file: %v", err)
	}
}
