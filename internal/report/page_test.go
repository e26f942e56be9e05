package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"colod/internal/browser"
)

// TestHTMLInChromium: the page opens from a file, with ten and with ten thousand divergences and with hostile ones; it complains of
// nothing and asks nobody. With COLOD_PICTURES it leaves pictures in that directory.
func TestHTMLInChromium(t *testing.T) {
	dir := t.TempDir()
	pages, paths := map[string][]*Report{"divergences-10": many(10), "divergences-10000": many(10_000), "divergences-hostile": hostile()}, []string(nil)
	for name, all := range pages {
		var page bytes.Buffer
		if err := WriteHTML(&page, all, Summarize(all, time.Time{}, time.Time{})); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, filepath.Join(dir, name+".html"))
		if err := os.WriteFile(paths[len(paths)-1], page.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	looked := 0
	err := browser.Run(t.Context(), browser.Script{
		Name: "view.mjs", Env: []string{"COLOD_PAGES=" + strings.Join(paths, "\n")},
		Answers: browser.Answers{"seen": func(what string) (string, error) {
			var seen struct {
				Name                                string
				Details, Marks, Rows, Bars, Scripts int
			}
			if err := json.Unmarshal([]byte(what), &seen); err != nil {
				return "", err
			}
			looked++
			t.Logf("Chromium shows %+v", seen)
			n := len(pages[seen.Name])
			if seen.Scripts != 0 || seen.Bars == 0 || seen.Marks == 0 || seen.Rows != n || seen.Details < min(n, 100) {
				t.Errorf("of %d divergences Chromium shows %+v", n, seen)
			}
			return "", nil
		}},
	})
	if err != nil || looked != len(pages) {
		t.Errorf("%d pages of %d: %v", looked, len(pages), err)
	}
}
