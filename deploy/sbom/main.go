// Command sbom writes the software bill of materials of a Go binary, as
// CycloneDX 1.5 JSON, from what the Go linker wrote into it: every module with
// version and hash, the toolchain, the build settings. Equal binaries and equal
// dates give equal documents.
//
//	go run ./deploy/sbom -name colod -version VERSION [-date @SECONDS] BINARY
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"time"
)

func main() {
	name := flag.String("name", "colod", "name of the program")
	version := flag.String("version", "unknown", "version of the program")
	date := flag.Int64("date", 0, "time of the document, seconds since 1970")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: sbom [-name NAME] [-version VERSION] [-date SECONDS] BINARY")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *name, *version, time.Unix(*date, 0), os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "sbom: %v\n", err)
		os.Exit(1)
	}
}

func run(path, name, version string, at time.Time, out io.Writer) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read modules of %s: %w", path, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	doc, err := describe(info, sha256.Sum256(data), name, version, at)
	if err != nil {
		return fmt.Errorf("describe %s: %w", path, err)
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(doc)
}

// The part of CycloneDX 1.5 that is used here.
type (
	document struct {
		Format       string       `json:"bomFormat"`
		SpecVersion  string       `json:"specVersion"`
		SerialNumber string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Name       string     `json:"name"`
		Version    string     `json:"version"`
		PURL       string     `json:"purl,omitempty"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Licenses   []license  `json:"licenses,omitempty"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	license struct {
		License struct {
			ID string `json:"id"`
		} `json:"license"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn,omitempty"`
	}
)

func describe(info *debug.BuildInfo, sum [32]byte, name, version string, at time.Time) (*document, error) {
	main := component{
		Type: "application", Ref: name, Name: name, Version: version,
		Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}},
	}
	var own license
	own.License.ID = "Apache-2.0"
	main.Licenses = []license{own}
	for _, s := range info.Settings {
		main.Properties = append(main.Properties, property{"go:build:" + s.Key, s.Value})
	}
	doc := &document{
		Format: "CycloneDX", SpecVersion: "1.5", SerialNumber: serial(sum), Version: 1,
		Metadata:   metadata{at.UTC().Format(time.RFC3339), main},
		Components: []component{toolchain(info.GoVersion)},
	}
	for _, m := range info.Deps {
		c, err := module(m)
		if err != nil {
			return nil, err
		}
		doc.Components = append(doc.Components, c)
	}
	sort.Slice(doc.Components, func(i, j int) bool { return doc.Components[i].Ref < doc.Components[j].Ref })
	whole := dependency{Ref: name}
	for _, c := range doc.Components {
		whole.DependsOn = append(whole.DependsOn, c.Ref)
	}
	doc.Dependencies = []dependency{whole}
	return doc, nil
}

// toolchain is the Go standard library, which a vulnerability can be in too.
func toolchain(goVersion string) component {
	v := strings.TrimPrefix(goVersion, "go")
	return component{Type: "library", Ref: "pkg:golang/std@" + v, Name: "std", Version: v, PURL: "pkg:golang/std@" + v}
}

func module(m *debug.Module) (component, error) {
	if m.Replace != nil {
		m = m.Replace
	}
	purl := "pkg:golang/" + m.Path + "@" + m.Version
	c := component{Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl}
	if m.Sum == "" {
		return c, nil // a directory took the module's place: there is nothing to check against
	}
	// "h1:" and the base64 of a SHA-256 over the module's file hashes, see golang.org/x/mod/sumdb/dirhash.
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
	if err != nil || len(b) != sha256.Size || !strings.HasPrefix(m.Sum, "h1:") {
		return c, fmt.Errorf("module %s has the sum %s, which is not h1 and a SHA-256", m.Path, strconv.Quote(m.Sum))
	}
	c.Properties = []property{{"go:sum", m.Sum}}
	return c, nil
}

// serial is a UUID (RFC 9562, version 8) made of the binary's hash.
func serial(sum [32]byte) string {
	u := sum[:16]
	u = append([]byte{}, u...)
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
