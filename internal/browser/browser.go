// Package browser runs the Playwright scripts of coordinator/web/test, which
// drive pages in Debian's Chromium, for tests. make setup installs what they need.
//
// A script ends with exit code 0 when all that it looked for is there. While it
// runs it may ask the test to do something: one JSON object a line on its
// standard output, answered by one on its standard input.
package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Chromium as Debian installs it.
const Chromium = "/usr/bin/chromium"

// Answers are what a script may ask for, by name. They are called one at a time;
// "note" is answered here if it is not among them.
type Answers map[string]func(argument string) (string, error)

// Script is a script with its surroundings.
type Script struct {
	Name    string   // in coordinator/web/test, such as live.mjs
	Env     []string // more of its environment, NAME=value
	Answers Answers
	Log     func(string) // told what the script notes; may be nil
}

// request is what a script asks.
type request struct{ Ask, Argument string }

// reply is what it gets.
type reply struct {
	Value string `json:"value"`
	Error string `json:"error,omitempty"`
}

// modules returns the directory whose node_modules has Playwright: that of
// COLOD_WEB_MODULES, or colod/web of the user's cache.
func modules() (string, error) {
	dir := os.Getenv("COLOD_WEB_MODULES")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find modules of npm: %w", err)
		}
		dir = filepath.Join(cache, "colod", "web")
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "playwright-core")); err != nil {
		return "", fmt.Errorf("find Playwright: %w; make setup installs it", err)
	}
	return dir, nil
}

// scripts is the directory of the scripts.
func scripts() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "coordinator", "web", "test")
}

// Run runs a script to its end. The error says what it did not find.
func Run(ctx context.Context, s Script) error {
	dir, err := modules()
	if err != nil {
		return err
	}
	if _, err := os.Stat(Chromium); err != nil {
		return fmt.Errorf("find Chromium: %w; make setup installs it (Debian package chromium)", err)
	}
	tmp, err := os.MkdirTemp("", "colod-browser") // Chromium's profile and what it leaves when it is killed
	if err != nil {
		return fmt.Errorf("run %s: %w", s.Name, err)
	}
	defer os.RemoveAll(tmp)
	cmd := exec.CommandContext(ctx, "node", filepath.Join(scripts(), s.Name))
	cmd.Env = append(append(os.Environ(), "COLOD_WEB_MODULES="+dir, "COLOD_CHROMIUM="+Chromium, "TMPDIR="+tmp), s.Env...)
	// A group of its own: Chromium is many processes, all of which have to end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("run %s: %w", s.Name, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run %s: %w", s.Name, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w; make setup installs Node.js", s.Name, err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	var stray []string // what is no request
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			stray = append(stray, lines.Text())
			continue
		}
		b, err := json.Marshal(s.answer(r))
		if err == nil {
			_, err = in.Write(append(b, '\n'))
		}
		if err != nil {
			break // it has ended, which Wait tells
		}
	}
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // ESRCH: all have ended
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", s.Name, errors.Join(err, ctx.Err()), strings.TrimSpace(said.String()+strings.Join(stray, "\n")))
	}
	return nil
}

func (s *Script) answer(r request) reply {
	fn := s.Answers[r.Ask]
	switch {
	case fn == nil && r.Ask == "note":
		if s.Log != nil {
			s.Log(r.Argument)
		}
		return reply{}
	case fn == nil:
		return reply{Error: "the test does not know it"}
	}
	v, err := fn(r.Argument)
	if err != nil {
		return reply{Error: err.Error()}
	}
	return reply{Value: v}
}
