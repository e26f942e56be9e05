package guest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// TestJobs: each job that needs nothing of the guest's own runs here too, and its answer does not depend on who did it.
func TestJobs(t *testing.T) {
	srv := httptest.NewServer(handler())
	defer srv.Close()
	ask := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for name := range jobs {
		if name == "compile" || name == "files" {
			continue // they write where only the guest may
		}
		if name == "spawn" {
			if _, err := os.Stat("/bin/true"); err != nil {
				continue
			}
		}
		if code, said := ask("/job/" + name + "?n=3"); code != http.StatusOK || said != fmt.Sprintf("%s 3 done\n", name) {
			t.Errorf("job %s: %d %q", name, code, said)
		}
	}
	for _, bad := range []string{"/job/syscall", "/job/syscall?n=0", "/job/syscall?n=99999999999", "/job/nothing?n=1"} {
		if code, said := ask(bad); code < 400 {
			t.Errorf("%s: %d %q", bad, code, said)
		}
	}
}

// TestSourceCompiles: what the compile job gives to its compiler is C.
func TestSourceCompiles(t *testing.T) {
	s := source()
	if strings.Contains(s, "%!") || strings.Count(s, "{") != strings.Count(s, "}") || !strings.Contains(s, "s % 7 == 3") {
		t.Errorf("the source is no C:\n%s", s[:400])
	}
}
