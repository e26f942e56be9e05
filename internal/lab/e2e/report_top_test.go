package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// top: colod top in a real terminal shows the live pair and why its copies diverged, and gives the terminal back.
func (r *reportLab) top(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "tmux")
	tmux := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("tmux", append([]string{"-S", socket, "-f", "/dev/null"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	st := r.protected()
	tmux("new-session", "-d", "-x", "110", "-y", "32", "sh")
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", socket, "kill-server").Run() }) // gone when its shell has ended
	tmux("set-option", "-g", "status", "off")
	tmux("send-keys", program+" top --socket "+r.Socket(st.Speaker)+"; echo back with $?", "Enter")
	screen := ""
	await := func(words ...string) {
		t.Helper()
		missing := ""
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			screen = tmux("capture-pane", "-p")
			missing = ""
			for _, w := range words {
				if !strings.Contains(screen, w) {
					missing = w
				}
			}
			if missing == "" {
				return
			}
		}
		t.Fatalf("no %q on the screen:\n%s", missing, screen)
	}
	await("node "+st.Speaker, "guest", "speaker", "lockstep", "released/s", "divergences", "more", "payload", "checkpoints:", "q quit")
	if strings.Contains(screen, "\ufffd") {
		t.Errorf("the screen is damaged:\n%s", screen)
	}
	t.Logf("colod top in tmux:\n%s", screen)
	if dir := os.Getenv("COLOD_PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "top.txt"), []byte(screen), 0o644); err != nil {
			t.Error(err)
		}
	}
	tmux("send-keys", "q")
	await("back with 0")
}
