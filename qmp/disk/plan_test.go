package disk

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"colod/qmp"
)

func testLayout() *Layout {
	return &Layout{Dir: "/s/disks/g", Disks: []Disk{
		{Path: "/i/a.qcow2", Format: QCOW2, Size: 8 << 30, Kind: Replicated},
		{Path: "/dev/vg/b", Format: Raw, Size: 1 << 30, Kind: Replicated, Device: true},
		{Path: "/i/ro.raw", Format: Raw, Size: 1 << 20, Kind: Shared},
	}}
}

// TestArgs: what the guest sees is the same on both sides, and every option is JSON that QEMU can take.
func TestArgs(t *testing.T) {
	l := testLayout()
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	devices := func(args []string) (d []string) {
		for i := 0; i < len(args); i += 2 {
			if args[i] == "-device" {
				d = append(d, args[i+1])
				continue
			}
			if args[i] != "-blockdev" || !json.Valid([]byte(args[i+1])) {
				t.Errorf("argument %s %s", args[i], args[i+1])
			}
		}
		return d
	}
	p, s := l.Args(false), l.Args(true)
	if dp, ds := devices(p), devices(s); len(dp) != 3 || !slices.Equal(dp, ds) {
		t.Errorf("devices %q and %q", dp, ds)
	}
	for _, want := range []string{
		`{"discard":"unmap","driver":"raw","file":{"discard":"unmap","driver":"host_device","filename":"/dev/vg/b","locking":"on"},"node-name":"colod-base1"}`,
		`{"driver":"raw","file":{"driver":"file","filename":"/i/ro.raw","locking":"on","read-only":true},"node-name":"colod-disk2","read-only":true}`,
		`{"children":["colod-base0"],"driver":"quorum","node-name":"colod-disk0","read-pattern":"fifo","vote-threshold":1}`,
	} {
		if !slices.Contains(p, want) {
			t.Errorf("primary lacks %s:\n%s", want, strings.Join(p, "\n"))
		}
	}
	for _, want := range []string{
		`{"driver":"replication","file":{"backing":{"backing":"colod-base0","driver":"qcow2","file":{"driver":"file","filename":"/s/disks/g/disk0-hidden.qcow2"},` +
			`"node-name":"colod-hidden0"},"driver":"qcow2","file":{"driver":"file","filename":"/s/disks/g/disk0-active.qcow2"},"node-name":"colod-active0"},` +
			`"mode":"secondary","node-name":"colod-top0","top-id":"colod-disk0"}`,
		`{"children":["colod-top0"],"driver":"quorum","node-name":"colod-disk0","read-pattern":"fifo","vote-threshold":1}`,
	} {
		if !slices.Contains(s, want) {
			t.Errorf("secondary lacks %s:\n%s", want, strings.Join(s, "\n"))
		}
	}
	if (&Layout{}).Args(true) != nil || (*Layout)(nil).Replicates() {
		t.Error("a guest without disks has arguments for them")
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		change func(*Layout)
		want   string
	}{
		{func(l *Layout) { l.Disks[0].Path = "a" }, "want an absolute path"},
		{func(l *Layout) { l.Disks[0].Format = "vmdk" }, `format "vmdk"`},
		{func(l *Layout) { l.Disks[0].Size = 1000 }, "size 1000 bytes"},
		{func(l *Layout) { l.Disks[0].Kind = "" }, `kind ""`},
		{func(l *Layout) { l.Disks[1].Path = "/i/./a.qcow2" }, "also the path of disk 0"},
		{func(l *Layout) { l.Dir = "x" }, "directory of the overlays"},
		{func(l *Layout) { l.Disks = slices.Repeat(l.Disks, 6) }, "at most 16"},
	} {
		l := testLayout()
		c.change(l)
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestFaultOf(t *testing.T) {
	for _, c := range []struct {
		name, data string
		want       Fault
		ok         bool
	}{
		{EventQuorumBad, `{"node-name":"colod-remote1","type":"write","error":"No space left on device","sector-num":0,"sectors-count":8}`, Fault{Remote, 1, true, "No space left on device"}, true},
		{EventQuorumBad, `{"node-name":"colod-base0","type":"flush","error":"Input/output error"}`, Fault{Local, 0, true, "Input/output error"}, true},
		{EventQuorumBad, `{"node-name":"colod-top2","type":"read"}`, Fault{Local, 2, false, ""}, true},
		{EventIOError, `{"device":"","node-name":"colod-disk3","operation":"write","action":"stop","nospace":true,"reason":"No space left on device"}`, Fault{Guest, 3, true, "No space left on device"}, true},
		{EventIOError, `{"node-name":"colod-disk3","operation":"read","action":"report","reason":"x"}`, Fault{Guest, 3, false, "x"}, false},
		{EventJobEnded, `{"device":"colod-copy0","error":"Input/output error"}`, Fault{Remote, 0, true, "Input/output error"}, true},
		{EventJobEnded, `{"device":"colod-copy0"}`, Fault{Remote, 0, true, ""}, false},
		{"STOP", ``, Fault{Disk: -1}, false},
		{EventQuorumBad, `{"node-name":"colod-saved1","type":"write","error":"Input/output error"}`, Fault{Remote, 1, true, "Input/output error"}, true},
		{EventIOError, `{"node-name":"colod-copied2","operation":"write","action":"stop","reason":"Input/output error"}`, Fault{Guest, 2, true, "Input/output error"}, true},
		{EventQuorumBad, `nonsense`, Fault{Local, -1, true, ""}, true},
	} {
		f, ok := FaultOf(qmp.Event{Name: c.name, Data: json.RawMessage(c.data)})
		if ok != c.ok || f != c.want {
			t.Errorf("%s %s: %+v, %v; want %+v, %v", c.name, c.data, f, ok, c.want, c.ok)
		}
	}
	if s := (Fault{Remote, 1, true, "No space left on device"}).String(); s != "disk 1: write of the image of the other node failed: No space left on device" {
		t.Error(s)
	}
}

func TestBitmapNames(t *testing.T) {
	for _, s := range []string{"33f6fd90031b-1", "a.b.c", "x"} {
		if got, n, ok := parseBitmap(bitmapName(s, 7)); got != s || n != 7 || !ok {
			t.Errorf("%q: %q, %d, %v", s, got, n, ok)
		}
	}
	for _, s := range []string{"", "colod.", "colod.x", "colod.x.", "colod..1", "other.x.1", "colod-merged"} {
		if _, _, ok := parseBitmap(s); ok {
			t.Errorf("%q is taken for one of ours", s)
		}
	}
}

// TestLedger: what each step in an image's life allows.
func TestLedger(t *testing.T) {
	l := testLayout()
	l.Dir = t.TempDir()
	offer := func(want string) {
		t.Helper()
		o, err := l.Offer()
		if err != nil || o.Base != want {
			t.Errorf("offer %+v, %v; want %q", o, err, want)
		}
	}
	recovers := func(want error) {
		t.Helper()
		_, err := l.Recover(t.Context())
		if want == nil && err != nil || want != nil && !isErr(err, want) {
			t.Errorf("recover: %v, want %v", err, want)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	offer("")
	recovers(nil)
	do(l.BeginCopy("s1", "a"))
	offer("")
	recovers(ErrUnfinished)
	do(l.EndCopy("other"))
	recovers(ErrUnfinished)
	do(l.EndCopy("s1"))
	offer("s1")
	recovers(nil)
	do(l.LeftBehind("a"))
	offer("s1") // old, but what it lacks may be known
	recovers(ErrStale)
	do(l.BeginCopy("s2", "a"))
	do(l.EndCopy("s2"))
	offer("s2")
	recovers(nil)
	do(l.Promoting())
	offer("")
	do(l.Committed())
	recovers(nil)
	offer("")
	// Another boot of the host: what was in memory only is gone.
	do(l.BeginCopy("s3", "a"))
	do(l.EndCopy("s3"))
	do(l.update(true, func(g *Ledger) { g.Boot = "another" }))
	offer("")
	recovers(nil)
	// And whether overlays in use were committed before the host went down is not known.
	do(l.Promoting())
	header := make([]byte, 80)
	copy(header, "QFI\xfb\x00\x00\x00\x03")
	for _, path := range []string{l.active(0), l.hidden(0), l.active(1), l.hidden(1)} {
		do(os.WriteFile(path, header, 0o600))
	}
	header[79] = 1
	do(os.WriteFile(l.hidden(1), header, 0o600))
	recovers(ErrUncertain)
	header[79] = 0
	do(os.WriteFile(l.hidden(1), header, 0o600))
	recovers(nil)
	if _, err := os.Stat(l.active(0)); !os.IsNotExist(err) {
		t.Errorf("overlay of old: %v", err)
	}
}
