package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Leaks lists what is there of a lab of that name: namespaces, directories,
// mounts, sockets and processes. After Down it is empty. Links and tc rules live
// inside the namespaces and end with them.
func Leaks(name string) []string {
	var found []string
	add := func(kind, what string) { found = append(found, kind+" "+what) }
	prefix, dir := "colod-"+name+"-", filepath.Join(baseDir, name)
	owns := func(s string) bool {
		for _, host := range allHosts() {
			if strings.HasSuffix(s, prefix+host) || strings.Contains(s, prefix+host+" ") {
				return true
			}
		}
		return s == dir || strings.Contains(s, dir+"/") || strings.Contains(s, dir+" ")
	}
	names, _ := filepath.Glob(filepath.Join(netnsDir, prefix+"*"))
	for _, n := range names {
		if owns(n) {
			add("namespace", n)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		add("directory", dir)
	}
	for _, table := range []struct{ kind, file string }{{"mount", "/proc/self/mounts"}, {"socket", "/proc/net/unix"}} {
		data, _ := os.ReadFile(table.file)
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); owns(line) {
				add(table.kind, line)
			}
		}
	}
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range cmdlines {
		if c == fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) {
			continue
		}
		data, _ := os.ReadFile(c)
		line := strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
		if strings.Contains(line, dir+"/") || strings.Contains(line, "netns exec "+prefix) {
			add("process", filepath.Base(filepath.Dir(c))+": "+line)
		}
	}
	return found
}
