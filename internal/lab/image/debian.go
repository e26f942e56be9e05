package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// kernelMeta is the Debian package that always depends on the newest kernel
// made for virtual machines. Its drivers are few, so it starts fast.
const kernelMeta = "linux-image-cloud-amd64"

// userland are the packages whose programs run in the guest.
var userland = []string{"busybox-static", "openssh-server", "redis-server", "redis-tools", "iperf3", "tcc"}

// run starts a program and returns its output; its error carries what the
// program said.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		said := strings.TrimSpace(stderr.String())
		if said == "" {
			return out, fmt.Errorf("run %s %s: %w", name, strings.Join(args, " "), err)
		}
		return out, fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, lastLine(said))
	}
	return out, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// control is what we need of one package's record.
type control struct {
	Package string
	Depends []string // first alternative of each dependency
}

// show reads package records from apt's lists, of the candidate version each.
func show(ctx context.Context, names []string) ([]control, error) {
	out, err := run(ctx, "", "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...)
	if err != nil {
		return nil, err
	}
	return parseControl(string(out)), nil
}

func parseControl(text string) []control {
	var all []control
	for _, para := range strings.Split(text, "\n\n") {
		var c control
		for _, line := range strings.Split(para, "\n") {
			key, value, ok := strings.Cut(line, ":")
			if !ok || strings.HasPrefix(line, " ") {
				continue
			}
			switch key {
			case "Package":
				c.Package = strings.TrimSpace(value)
			case "Depends", "Pre-Depends":
				for _, dep := range strings.Split(value, ",") {
					dep, _, _ = strings.Cut(dep, "|")
					dep, _, _ = strings.Cut(strings.TrimSpace(dep), " ")
					dep, _, _ = strings.Cut(dep, ":")
					if dep != "" {
						c.Depends = append(c.Depends, dep)
					}
				}
			}
		}
		if c.Package != "" {
			all = append(all, c)
		}
	}
	return all
}

// isLibrary tells the dependencies worth unpacking: shared libraries. What only
// configures an installed system (debconf, adduser, init scripts) is left out.
func isLibrary(name string) bool {
	return strings.HasPrefix(name, "lib") || name == "zlib1g"
}

// closure returns the packages of names and of all libraries they need.
func closure(ctx context.Context, names []string) ([]string, error) {
	seen := map[string]bool{}
	for next := names; len(next) > 0; {
		records, err := show(ctx, next)
		if err != nil {
			return nil, err
		}
		for _, n := range next {
			seen[n] = true
		}
		next = nil
		for _, r := range records {
			for _, d := range r.Depends {
				if isLibrary(d) && !seen[d] && !slices.Contains(next, d) {
					next = append(next, d)
				}
			}
		}
	}
	all := make([]string, 0, len(seen))
	for n := range seen {
		all = append(all, n)
	}
	slices.Sort(all)
	return all, nil
}

// kernelPackage returns the package that holds the kernel itself.
func kernelPackage(ctx context.Context) (string, error) {
	records, err := show(ctx, []string{kernelMeta})
	if err != nil {
		return "", err
	}
	for _, r := range records {
		for _, d := range r.Depends {
			if strings.HasPrefix(d, "linux-image-") {
				return d, nil
			}
		}
	}
	return "", fmt.Errorf("resolve %s: its record names no kernel package", kernelMeta)
}

// download fetches the packages into dir, without installing anything, and
// returns the files. An empty package list of apt is fetched first.
func download(ctx context.Context, dir string, progress func(string)) (kernel string, debs []string, err error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", nil, errors.New("download guest packages: apt-get not found: the lab's guest is made of Debian packages; run it on Debian 12 or a system with apt")
	}
	kpkg, err := kernelPackage(ctx)
	if err != nil {
		progress("apt knows no packages yet: fetching its lists")
		if _, uerr := run(ctx, "", "apt-get", "update", "-q"); uerr != nil {
			return "", nil, fmt.Errorf("download guest packages: %w (and %w)", err, uerr)
		}
		if kpkg, err = kernelPackage(ctx); err != nil {
			return "", nil, fmt.Errorf("download guest packages: %w", err)
		}
	}
	names, err := closure(ctx, userland)
	if err != nil {
		return "", nil, fmt.Errorf("download guest packages: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	progress(fmt.Sprintf("downloading %s and %d packages", kpkg, len(names)))
	// Root's apt drops to its own user for downloads, which cannot write here.
	args := append([]string{"download", "-q", "-o", "APT::Sandbox::User=root", kpkg}, names...)
	if _, err := run(ctx, dir, "apt-get", args...); err != nil {
		return "", nil, fmt.Errorf("download guest packages: %w (run 'apt-get update' if apt's lists are old)", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return "", nil, err
	}
	for _, f := range files {
		if strings.HasPrefix(filepath.Base(f), kpkg+"_") {
			kernel = f
		} else {
			debs = append(debs, f)
		}
	}
	if kernel == "" {
		return "", nil, fmt.Errorf("download guest packages: no file for %s among %d", kpkg, len(files))
	}
	return kernel, debs, nil
}

// file is one file or symbolic link of a package.
type file struct {
	data []byte
	mode int64
	link string // symbolic link's target, else empty
}

// unpack reads those files of a package that keep wants, by absolute path,
// straight from the archive: nothing is written to disk.
func unpack(ctx context.Context, deb string, into map[string]file, keep func(name string) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	r := tar.NewReader(pipe)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			cancel()
			cmd.Wait()
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
		name := "/" + clean(h.Name)
		if !keep(name) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			data, err := io.ReadAll(r)
			if err != nil {
				cancel()
				cmd.Wait()
				return fmt.Errorf("unpack %s: %s: %w", filepath.Base(deb), name, err)
			}
			into[name] = file{data: data, mode: h.Mode & 0o777}
		case tar.TypeSymlink:
			into[name] = file{link: h.Linkname}
		case tar.TypeLink:
			into[name] = into["/"+clean(h.Linkname)]
		}
	}
	io.Copy(io.Discard, pipe)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("unpack %s: dpkg-deb: %w", filepath.Base(deb), err)
	}
	return nil
}
