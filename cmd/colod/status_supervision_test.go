package main

import (
	"strings"
	"testing"
	"time"

	"colod/coordinator"
)

func TestPrintSupervision(t *testing.T) {
	var b strings.Builder
	printSupervision(&b, nil)
	if b.String() != "" {
		t.Errorf("%q", b.String())
	}
	since := time.Now().Add(-3*time.Hour - 2*time.Minute - 30*time.Second)
	printSupervision(&b, []coordinator.SupervisedPart{
		{Part: "arbiter", State: "ok", Since: since},
		{Part: "node/b/path/1", State: "failed", Since: since, Reason: "nothing was heard for 3h\x1b[2J"},
		{Part: "pair/g/vm", State: "new", Since: since},
		{Part: "pair/g/proxy", State: "ok", Since: since},
	})
	want := "\nsupervision: 4 parts, 2 ok, 1 new, 1 failed\n  node/b/path/1 failed for 3h02m: nothing was heard for 3h"
	if got := b.String(); !strings.HasPrefix(got, want) || strings.Contains(got, "\x1b") {
		t.Errorf("%q, want %q", got, want)
	}
}
