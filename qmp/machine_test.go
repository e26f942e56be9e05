package qmp

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRAMBlocks(t *testing.T) {
	got := ramBlocks("              Block Name    PSize              Offset               Used              Total                HVA  RO\n" +
		"                  pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f0000000000  rw\n" +
		"    /rom@etc/acpi/tables    4 KiB  0x0000000010080000 0x0000000000020000 0x0000000000200000 0x00007f0010000000  ro\n")
	want := []RAMBlock{{"/rom@etc/acpi/tables", 0x200000}, {"pc.ram", 0x10000000}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What a machine to compare with is started with reaches nothing of the host.
func TestLifeless(t *testing.T) {
	got, err := lifeless([]string{
		"-name", "guest=x", "-nodefaults", "-machine", "pc,accel=tcg", "-qmp", "unix:/x,server=on", "-chardev", "file,id=console,path=/x", "-serial", "chardev:console",
		"-netdev", "tap,id=net0,ifname=vm0", "-device", "virtio-net-pci,netdev=net0", "-blockdev", `{"driver":"qcow2","node-name":"d0","file":{"driver":"file","filename":"/x"}}`,
		"-drive", "file=/x,if=virtio,format=qcow2,readonly=on", "-serial", "unix:/x,server=on",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-machine", "pc,accel=tcg", "-chardev", "null,id=console", "-serial", "chardev:console", "-netdev", "hubport,hubid=0,id=net0",
		"-device", "virtio-net-pci,netdev=net0", "-blockdev", `{"driver":"null-co","node-name":"d0","size":1073741824}`,
		"-drive", "file=null-co://,format=raw,if=virtio,readonly=on", "-serial", "null",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if s := strings.Join(got, " "); strings.Contains(s, "/x") {
		t.Errorf("it reaches a file: %s", s)
	}
	for _, args := range [][]string{{"-object", "memory-backend-file,id=m,mem-path=/x"}, {"-fsdev", "local,path=/x"}} {
		if got, err := lifeless(args); err == nil {
			t.Errorf("%q became %q, and was to be refused", args, got)
		}
	}
}

// Two machines of one configuration are equal; another card, or a property of
// it, is seen.
func TestExpect(t *testing.T) {
	if _, err := exec.LookPath(defaultBinary); err != nil {
		t.Fatalf("%v: make setup installs it", err)
	}
	expect := func(args ...string) *Machine {
		t.Helper()
		ctx := testContext(t, 2*time.Minute)
		m, err := Expect(ctx, VMConfig{Name: "x", Accel: TCG, Memory: 64 << 20, RunDir: t.TempDir(), Args: args, StartTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	nic := "virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile=,guest_announce="
	m := expect("-netdev", "tap,id=net0", "-device", nic+"off")
	n := expect("-netdev", "tap,id=net0", "-device", nic+"off")
	other := expect("-netdev", "tap,id=net0", "-device", nic+"on")
	at := func(m *Machine) Device {
		i := slices.IndexFunc(m.Devices, func(d Device) bool { return d.Type == "virtio-net-pci" })
		if i < 0 {
			t.Fatalf("no card among %v", m.Devices)
		}
		return m.Devices[i]
	}
	if d := at(m); d.At != "pci.0 02.0" || d.Props["guest_announce"] != "false" || d.Props["mac"] == "" {
		t.Errorf("the card is %+v", d)
	}
	if at(other).Props["guest_announce"] != "true" {
		t.Errorf("the other card is %+v", at(other))
	}
	if m.Memory != 64<<20 || m.CPUs != 1 || m.KVM || !strings.HasPrefix(m.Type, "pc-i440fx-") || len(m.Blocks) == 0 || len(m.Devices) < 10 {
		t.Errorf("machine %+v", m)
	}
	if !slices.Equal(m.Blocks, n.Blocks) || len(m.Devices) != len(n.Devices) {
		t.Fatalf("two machines of one configuration differ:\n%v\n%v", m, n)
	}
	for i, d := range m.Devices {
		o := n.Devices[i]
		for k, v := range d.Props {
			if d.Type != o.Type || d.At != o.At || o.Props[k] != v {
				t.Errorf("%s at %s: %s is %s and %s", d.Type, d.At, k, v, o.Props[k])
			}
		}
	}
}
