package config

import (
	"fmt"
	"path/filepath"
	"strings"

	"colod/qmp/disk"
)

// disks checks the disks of a pair. images remembers whose an image is.
func (ck checker) disks(p *Pair, key string, images map[string]string) {
	if n := len(p.Disks); n > disk.MaxDisks {
		ck.bad(key, fmt.Sprintf("%d disks are listed", n), fmt.Sprintf("list at most %d", disk.MaxDisks))
	}
	for i, d := range p.Disks {
		k := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case !ck.has(k + ".path"):
		case !filepath.IsAbs(d.Path) || strings.ContainsAny(d.Path, "\n\x00"):
			ck.bad(k+".path", fmt.Sprintf("%q is not an absolute path", d.Path), "write the path from / on")
		default:
			path := filepath.Clean(d.Path)
			if first, dup := images[path]; dup && !(d.Kind == string(disk.Shared) && strings.HasPrefix(first, "shared ")) {
				ck.bad(k+".path", fmt.Sprintf("%s is also the image of %s", path, strings.TrimPrefix(first, "shared ")), "give each disk its own image")
			}
			images[path] = fmt.Sprintf("disk %d of pair %s", i, p.Name)
			if d.Kind == string(disk.Shared) {
				images[path] = "shared " + images[path]
			}
		}
		if ck.has(k+".size") && (d.Size < 1<<20 || d.Size > 1<<46 || d.Size%512 != 0) {
			ck.bad(k+".size", fmt.Sprintf("%s is out of range", d.Size), "use 1M to 64T")
		}
	}
}
