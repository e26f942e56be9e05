package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Session is a running set of clients, seen from the process that started it.
// Its methods may be called by many goroutines.
type Session struct {
	mu   sync.Mutex
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said bytes.Buffer
}

// Start runs the clients. cmd is "colod lab client", prepared to run on the
// client host; it is ended by Stop, Close or the end of its context.
func Start(cmd *exec.Cmd, loads []Load) (*Session, error) {
	s := &Session{cmd: cmd}
	var err error
	if s.in, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start clients: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start clients: %w", err)
	}
	s.out = bufio.NewReaderSize(out, 1<<20)
	cmd.Stderr = &s.said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start clients: %w", err)
	}
	if err := json.NewEncoder(s.in).Encode(loads); err != nil {
		s.Close()
		return nil, fmt.Errorf("start clients: %w", err)
	}
	return s, nil
}

func (s *Session) ask(request string) ([]Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.WriteString(s.in, request+"\n"); err != nil {
		return nil, s.failed(request, err)
	}
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return nil, s.failed(request, err)
	}
	var reports []Report
	if err := json.Unmarshal(line, &reports); err != nil {
		return nil, s.failed(request, err)
	}
	return reports, nil
}

func (s *Session) failed(request string, err error) error {
	if said := strings.TrimSpace(s.said.String()); said != "" {
		return fmt.Errorf("ask clients to %s: %w: %s", request, err, said)
	}
	return fmt.Errorf("ask clients to %s: %w", request, err)
}

// Report returns what the clients saw so far.
func (s *Session) Report() ([]Report, error) { return s.ask("report") }

// Mark returns the same and starts the longest pauses anew.
func (s *Session) Mark() ([]Report, error) { return s.ask("mark") }

// Stop ends the clients in order and returns their last reports.
func (s *Session) Stop() ([]Report, error) {
	reports, err := s.ask("stop")
	if err != nil {
		s.Close()
		return nil, err
	}
	return reports, s.Close()
}

// Close ends the clients, in whatever state they are.
func (s *Session) Close() error {
	s.in.Close()
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(5 * time.Second):
		s.cmd.Process.Kill()
		return errors.Join(errors.New("end clients: they did not end by themselves"), <-done)
	}
}

// Await returns the reports once cond holds for all of them, or an error after
// the given time or when a client broke.
func (s *Session) Await(limit time.Duration, cond func(Report) bool) ([]Report, error) {
	deadline := time.Now().Add(limit)
	for {
		reports, err := s.Report()
		if err != nil {
			return nil, err
		}
		all := true
		for _, r := range reports {
			if r.Error != "" {
				return reports, fmt.Errorf("client %s: %s", r.Name, r.Error)
			}
			all = all && cond(r)
		}
		if all {
			return reports, nil
		}
		if time.Now().After(deadline) {
			return reports, fmt.Errorf("wait for clients: not there after %s: %+v", limit, reports)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
