// Command manpages writes one manual page for each command of a colod binary,
// from what the binary's own --help says, so that the pages cannot differ from
// the program they are shipped with.
//
//	go run ./deploy/manpages [-date @SECONDS|YYYY-MM-DD] BINARY OUTDIR
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	date := flag.String("date", "@0", "date in the pages: YYYY-MM-DD, or @ and seconds since 1970")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: manpages [-date DATE] BINARY OUTDIR")
		os.Exit(2)
	}
	day, err := parseDate(*date)
	if err == nil {
		err = writeAll(flag.Arg(0), flag.Arg(1), day)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "manpages: %v\n", err)
		os.Exit(1)
	}
}

func parseDate(s string) (string, error) {
	if rest, ok := strings.CutPrefix(s, "@"); ok {
		n, err := strconv.ParseInt(rest, 10, 64)
		if err != nil {
			return "", fmt.Errorf("read date %s: want @ and whole seconds", s)
		}
		return time.Unix(n, 0).UTC().Format(time.DateOnly), nil
	}
	if _, err := time.Parse(time.DateOnly, s); err != nil {
		return "", fmt.Errorf("read date %s: want YYYY-MM-DD", s)
	}
	return s, nil
}

// writeAll writes the pages of the root command and, level by level, of all
// commands that the help texts name.
func writeAll(binary, dir, day string) error {
	type item struct {
		path  []string
		about string // one line about it, from its parent's list
	}
	queue := []item{{nil, "fault tolerant virtual machine pairs"}}
	for len(queue) > 0 {
		path, about := queue[0].path, queue[0].about
		queue = queue[1:]
		cmd := exec.Command(binary, append(append([]string{}, path...), "--help")...)
		text, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("run %s: %w", strings.Join(cmd.Args, " "), err)
		}
		h := parseHelp(string(text))
		if h.usage == "" {
			return fmt.Errorf("run %s: its output has no section Usage", strings.Join(cmd.Args, " "))
		}
		name := strings.Join(append([]string{"colod"}, path...), "-")
		if err := os.WriteFile(filepath.Join(dir, name+".1"), []byte(page(name, about, day, h)), 0o644); err != nil {
			return err
		}
		for _, c := range h.commands {
			if c.name != "help" && c.name != "completion" {
				queue = append(queue, item{append(append([]string{}, path...), c.name), c.about})
			}
		}
	}
	return nil
}
