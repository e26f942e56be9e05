package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"colod/internal/transcript"
)

// otherNode swaps the names of the two nodes.
func otherNode(s string) string { return map[string]string{"a": "b", "b": "a"}[s] }

var nodeName = regexp.MustCompile(`\b[ab]\b`)

// TestManual runs the manual's transcripts that need a protected guest. The
// manual speaks of guest1 and of a as its speaker; names are put in accordingly.
func TestManual(t *testing.T) {
	manual, err := os.ReadFile("../../../docs/manual.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := transcript.Parse(string(manual))
	if err != nil {
		t.Fatal(err)
	}
	l := protected(t)
	giveUpIfFailed(t, l)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	st, err := l.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	speaker := st.Speaker
	pairName := regexp.MustCompile(`\b` + regexp.QuoteMeta(st.Pair) + `\b`)
	dir := t.TempDir()
	path := filepath.Dir(program) + ":" + os.Getenv("PATH")
	run := func(command string) (string, int, error) {
		cmd := l.Command(ctx, speaker, "sh", "-c", strings.ReplaceAll(command, "guest1", st.Pair))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+path, "COLOD_SOCKET="+l.Socket(speaker))
		b, err := cmd.CombinedOutput()
		// A checkpoint may be under way at any time; that is protected, too.
		out := strings.ReplaceAll(string(b), "checkpointing", "protected")
		out = pairName.ReplaceAllString(out, "guest1")
		if speaker != "a" {
			out = nodeName.ReplaceAllStringFunc(out, otherNode)
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return out, exit.ExitCode(), nil
		}
		return out, 0, err
	}
	n := 0
	for _, b := range blocks {
		if b.Needs != "lab" {
			continue
		}
		n++
		if err := transcript.Check(b, run); err != nil {
			t.Errorf("docs/manual.md: %v", err)
		}
	}
	if n == 0 {
		t.Error("the manual has no transcript that needs a lab")
	}
}
