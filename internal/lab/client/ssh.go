package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// SSHArgs are the arguments of ssh and scp that make them talk to the guest
// without asking anything.
func SSHArgs(key, known string) []string {
	return []string{"-F", "none", "-i", key, "-o", "UserKnownHostsFile=" + known, "-o", "StrictHostKeyChecking=yes",
		"-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR"}
}

// ssh holds an interactive session with the real ssh client: it types a
// command for every number and reads the answer, as a person would.
func ssh(ctx context.Context, l Load, m *meter) error {
	cmd := exec.CommandContext(ctx, "ssh", append(SSHArgs(l.Key, l.Known), "-tt", "root@"+l.Host, "exec /bin/sh")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("ssh: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("ssh: %w", err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("ssh: %w (package openssh-client)", err)
	}
	defer cmd.Wait()
	defer in.Close()
	lines := make(chan string, 64)
	go func() {
		defer close(lines)
		r := bufio.NewReader(out)
		for {
			s, err := r.ReadString('\n')
			if err != nil {
				return
			}
			lines <- strings.TrimSpace(s)
		}
	}()
	// The prompt and what we type come back too: an answer is known by its mark,
	// which what we type does not hold in one piece.
	io.WriteString(in, "stty -echo; PS1=; n=0; echo rea''dy\n")
	if err := expect(lines, "ready", &said); err != nil {
		cmd.Process.Kill()
		return fmt.Errorf("ssh: %w", err)
	}
	m.update(func(r *Report) { r.Open = true })
	if l.Rate == 0 {
		l.Rate = 10
	}
	err = rounds(ctx, l, m, func(i int) (int64, error) {
		m.waiting()
		if _, err := io.WriteString(in, "n=$((n+1)); echo count $n\n"); err != nil {
			return 0, err
		}
		timeout := time.NewTimer(patience)
		defer timeout.Stop()
		for {
			select {
			case s, ok := <-lines:
				if !ok {
					return 0, fmt.Errorf("session ended: %s", strings.TrimSpace(said.String()))
				}
				_, number, found := strings.Cut(s, "count ")
				if !found || strings.HasPrefix(number, "$") {
					continue
				}
				m.heard(false)
				n, err := strconv.Atoi(number)
				if err != nil {
					m.update(func(r *Report) { r.Corrupt++ })
					return 0, fmt.Errorf("answer %q", s)
				}
				m.update(func(r *Report) {
					if n > i+1 {
						r.Lost += int64(n - i - 1)
					} else if n < i+1 {
						r.Repeated++
					}
					r.Last = s
				})
				return int64(len(s)), nil
			case <-timeout.C:
				return 0, fmt.Errorf("no answer within %s", patience)
			}
		}
	})
	if err != nil {
		cmd.Process.Kill()
		return err
	}
	io.WriteString(in, "exit\n")
	go func() { // whatever the session still says
		for range lines {
		}
	}()
	return nil
}

func expect(lines <-chan string, want string, said *strings.Builder) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case s, ok := <-lines:
			if !ok {
				return fmt.Errorf("session ended before it began: %s", strings.TrimSpace(said.String()))
			}
			if strings.HasSuffix(s, want) {
				return nil
			}
		case <-timeout.C:
			return fmt.Errorf("no session within %s", patience)
		}
	}
}
