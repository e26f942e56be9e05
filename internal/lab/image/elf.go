package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"slices"
	"strings"
)

// libraryDirs is where the Debian packages keep shared libraries, by preference.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64"}

// resolve follows symbolic links inside the tree of files.
func resolve(tree map[string]file, name string) (string, bool) {
	for range 8 {
		f, ok := tree[name]
		if !ok {
			return "", false
		}
		if f.link == "" {
			return name, true
		}
		if strings.HasPrefix(f.link, "/") {
			name = path.Clean(f.link)
		} else {
			name = path.Join(path.Dir(name), f.link)
		}
	}
	return "", false
}

// needed returns what the program or library asks of the dynamic linker: its
// interpreter (programs only) and its libraries' names.
func needed(data []byte) (interp string, libs []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return "", nil, err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				return "", nil, err
			}
			interp = string(bytes.TrimRight(b, "\x00"))
		}
	}
	libs, err = f.ImportedLibraries()
	return interp, libs, err
}

// libraries returns, for the programs named, every library file they load:
// the path under which it is looked up, and its content.
func libraries(tree map[string]file, programs []string) (map[string][]byte, error) {
	found := map[string][]byte{}
	queue := slices.Clone(programs)
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		real, ok := resolve(tree, name)
		if !ok {
			return nil, fmt.Errorf("collect libraries: %s is in none of the packages", name)
		}
		interp, libs, err := needed(tree[real].data)
		if err != nil {
			return nil, fmt.Errorf("collect libraries: read %s: %w", name, err)
		}
		if interp != "" && found[interp] == nil {
			at, ok := resolve(tree, interp)
			if !ok {
				return nil, fmt.Errorf("collect libraries: %s needs %s, which is in none of the packages", name, interp)
			}
			found[interp] = tree[at].data
		}
		for _, lib := range libs {
			if strings.HasPrefix(lib, "ld-linux") {
				continue // the interpreter, already taken
			}
			known := false
			for _, dir := range libraryDirs {
				at, ok := resolve(tree, path.Join(dir, lib))
				if !ok {
					continue
				}
				to := path.Join("/lib/x86_64-linux-gnu", lib)
				if found[to] == nil {
					found[to] = tree[at].data
					queue = append(queue, at)
				}
				known = true
				break
			}
			if !known {
				return nil, fmt.Errorf("collect libraries: %s needs %s, which is in none of the packages", name, lib)
			}
		}
	}
	return found, nil
}
