package lab

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lockedBuffer is a buffer that is written and read at a time.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A daemon that fails is started again, one that ended in order only when it is
// asked for, one that refuses its configuration too.
func TestKeepDoesAsSystemd(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "keep") // short: a socket is made in it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	// Each run takes the next exit code; the last one stays until it is ended.
	program := filepath.Join(dir, "daemon")
	if err := os.WriteFile(program, []byte(`#!/bin/sh
cd `+dir+`
n=$(ls runs | wc -l)
touch runs/$n
case $n in
0) exit 1 ;;
1) exit 0 ;;
2) exit 78 ;;
esac
trap 'exit 0' TERM
while :; do sleep 0.05; done
`), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "runs"), 0o755); err != nil {
		t.Fatal(err)
	}
	runs := func() int {
		all, _ := os.ReadDir(filepath.Join(dir, "runs"))
		return len(all)
	}
	var log lockedBuffer
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- keep(ctx, program, filepath.Join(dir, "colod.yaml"), &log) }()
	await := func(what string, cond func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within a minute; %d runs:\n%s", what, runs(), log.String())
			}
		}
	}
	said := func(s string) func() bool { return func() bool { return strings.Contains(log.String(), s) } }
	await("started again after a failure", func() bool { return runs() == 2 })
	await("the orderly end", said("in order by itself: not started again"))
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	await("the refused configuration", said("refuses its configuration: not started again"))
	if runs() != 3 {
		t.Errorf("%d runs, want 3", runs())
	}
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	await("started when asked for", func() bool { return runs() == 4 })
	syscall.Kill(os.Getpid(), syscall.SIGHUP)
	await("restarted", func() bool { return runs() == 5 })
	if !strings.Contains(log.String(), "as it was told to") {
		t.Errorf("log:\n%s", log.String())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
