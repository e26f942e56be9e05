package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"colod/internal/lab/image"
)

// shimSource is a small C library that lets an unmodified QEMU run COLO without
// KVM; it says itself what for. It is preloaded by QEMU, never with KVM.
//
//go:embed shim/tcg-shim.c
var shimSource []byte

// buildShim compiles the shim into the cache, once, and returns its path.
func buildShim(ctx context.Context) (string, error) {
	dir, err := image.CacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(shimSource)
	lib := filepath.Join(dir, "tcg-shim-"+hex.EncodeToString(sum[:4])+".so")
	if _, err := os.Stat(lib); err == nil {
		return lib, nil
	}
	cc, err := exec.LookPath("cc")
	if err != nil {
		return "", fmt.Errorf("build TCG shim: cc not found: without KVM, QEMU's COLO needs a small C library that is compiled here: install gcc (make setup)")
	}
	src, err := os.CreateTemp(dir, "shim*.c")
	if err != nil {
		return "", fmt.Errorf("build TCG shim: %w", err)
	}
	defer os.Remove(src.Name())
	_, err = src.Write(shimSource)
	if cerr := src.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", fmt.Errorf("build TCG shim: %w", err)
	}
	tmp := src.Name() + ".so"
	defer os.Remove(tmp)
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, cc, "-O2", "-Wall", "-fPIC", "-shared", "-o", tmp, src.Name(), "-ldl", "-lpthread")
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build TCG shim: %w: %s", err, tail(strings.TrimSpace(said.String()), 3))
	}
	return lib, os.Rename(tmp, lib)
}
