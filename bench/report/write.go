package report

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// WriteAll writes the report of results: file as Markdown, its plots into the directory plots beside it, and beside it
// the same as one HTML file. Plots of an earlier report are removed.
func WriteAll(file string, results []*Result) error {
	const sub = "plots"
	dir := filepath.Join(filepath.Dir(file), sub)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	plots := map[*Result][]Plot{}
	for _, r := range results {
		if plots[r], err = r.Plots(); err != nil {
			return fmt.Errorf("plots of %s: %w", r.Name, err)
		}
		for _, p := range plots[r] {
			if err := os.WriteFile(filepath.Join(dir, p.Name), p.SVG, 0o644); err != nil {
				return err
			}
		}
	}
	var md, html bytes.Buffer
	if err := errors.Join(Markdown(&md, results, sub, plots), HTML(&html, results)); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(file, md.Bytes(), 0o644), os.WriteFile(strings.TrimSuffix(file, ".md")+".html", html.Bytes(), 0o644))
}
