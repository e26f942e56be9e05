package main

import (
	"fmt"
	"io"
	"strings"

	"colod/coordinator"
	"colod/internal/termsafe"
)

// printSupervision writes how the watched parts of the node are: one line if all
// are well, and one more for each that is not.
func printSupervision(w io.Writer, parts []coordinator.SupervisedPart) {
	if len(parts) == 0 {
		return
	}
	count := map[string]int{}
	for _, p := range parts {
		count[p.State]++
	}
	words := []string{fmt.Sprintf("%d parts", len(parts))}
	for _, state := range []string{"ok", "new", "suspect", "failed"} {
		if n := count[state]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, state))
		}
	}
	fmt.Fprintf(w, "\nsupervision: %s\n", strings.Join(words, ", "))
	for _, p := range parts {
		if p.State != "suspect" && p.State != "failed" {
			continue
		}
		fmt.Fprintf(w, "  %s %s for %s: %s\n", termsafe.Line(p.Part), p.State, age(p.Since), termsafe.Line(p.Reason))
	}
}
