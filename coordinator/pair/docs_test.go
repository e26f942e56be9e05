package pair

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/pair-states.md")

// TestStatesDocument keeps docs/pair-states.md equal to the code.
func TestStatesDocument(t *testing.T) {
	const path = "../../docs/pair-states.md"
	want := StatesDocument()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, string(have)); d != "" {
		t.Errorf("docs/pair-states.md is not what the code says; run go generate ./coordinator/pair (-code +file):\n%s", d)
	}
	if len(wishes) != len(Ops) {
		t.Errorf("%d operations are described, there are %d", len(wishes), len(Ops))
	}
	if len(meanings) != len(stateNames) {
		t.Errorf("%d states have a meaning, there are %d", len(meanings), len(stateNames))
	}
}
