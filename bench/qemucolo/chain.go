// Package qemucolo runs the peer of whole systems: QEMU's own COLO with its own filter chain, as QEMU's docs/COLO-FT.txt
// and docs/colo-proxy.txt set it up, in the lab's hosts. Nothing of colod is in its way but the code that speaks to the
// monitors.
//
// Primary: filter-mirror copies what the guest receives to the other node; filter-redirector hands what it sends to
// colo-compare, and takes what that releases. Secondary: two redirectors give the guest the mirrored input and take its
// output away; filter-rewriter moves its TCP sequence numbers.
package qemucolo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"colod/internal/lab"
	"colod/internal/priority"
	"colod/qmp"
)

// Ports on the primary's node at which the secondary fetches input and delivers output.
const (
	portMirror  = 9003
	portCompare = 9004
)

// checkpointDelay is QEMU's own period of checkpoints in ms (its default).
const checkpointDelay = 20000

// announceRounds is how often QEMU announces a guest's address after a takeover (its default).
const announceRounds = 5

// Options of a chain.
type Options struct {
	Memory int64 // bytes
	// State, if not empty, is a file of a saved guest from which the primary starts, in place of booting.
	State string
}

// Chain is a pair of virtual machines on the lab's nodes a and b.
type Chain struct {
	Primary, Secondary *qmp.VM
	lab                *lab.Lab
	dir                string
	// Comparing tells that output goes through the comparison: no longer after a takeover.
	Comparing bool
}

// tap is the guests' tap on either node.
const tap = "vm0"

// Start starts the guest on node a of a bare lab, and its copy on node b, and returns when they are in COLO and compared.
// The caller closes it, also after an error.
func Start(ctx context.Context, l *lab.Lab, o Options) (*Chain, error) {
	c := &Chain{lab: l}
	var err error
	// The sockets' paths are short: lab directories are.
	if c.dir, err = os.MkdirTemp(l.Dir(), "q"); err != nil {
		return c, err
	}
	for _, node := range []string{lab.NodeA, lab.NodeB} {
		if err := c.makeTap(ctx, node); err != nil {
			return c, err
		}
	}
	if c.Primary, err = c.launch(ctx, lab.NodeA, o, primaryChardevs(c.dir), o.State != ""); err != nil {
		return c, err
	}
	if o.State != "" {
		err = c.restore(ctx, o.State)
	} else {
		err = l.AwaitGuest(ctx)
	}
	if err != nil {
		return c, fmt.Errorf("start QEMU's COLO: %w", err)
	}
	if c.Secondary, err = c.launch(ctx, lab.NodeB, o, secondaryChardevs(), true); err != nil {
		return c, err
	}
	return c, c.protect(ctx)
}

func (c *Chain) runDir(node string) string { return filepath.Join(c.lab.Dir(), node, "q") }

func (c *Chain) makeTap(ctx context.Context, node string) error {
	for _, args := range [][]string{
		{"ip", "tuntap", "add", tap, "mode", "tap", "vnet_hdr"},
		{"ip", "link", "set", tap, "txqueuelen", "4000", "master", lab.Bridge, "up"},
	} {
		if out, err := c.lab.Command(ctx, node, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("make tap on node %s: %w: %s", node, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// launch starts one side: the command line that colod uses, with the chain's character devices behind it.
func (c *Chain) launch(ctx context.Context, node string, o Options, chardevs []string, incoming bool) (vm *qmp.VM, err error) {
	kernel, initrd, cmdline := c.lab.Boot()
	cfg := qmp.VMConfig{
		Name: "peer", Accel: qmp.TCG, CPU: c.lab.CPU(), Memory: o.Memory, Kernel: kernel, Initrd: initrd, Append: cmdline,
		Tap: tap, MAC: lab.GuestMAC, Args: chardevs,
		RunDir: c.runDir(node), // below the node's directory, where the lab's faults look for its machine
	}
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("start QEMU's COLO: %w", err)
	}
	if accel, _ := c.lab.Accel(); accel == "kvm" {
		cfg.Accel = qmp.KVM
	}
	if s := c.lab.Shim(); s != "" {
		cfg.Env = []string{"LD_PRELOAD=" + s}
	}
	err = c.lab.In(node, func() (err error) {
		vm, err = qmp.Launch(ctx, cfg, incoming)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start QEMU's COLO: node %s: %w", node, err)
	}
	_ = priority.Set(vm.PID(), 0) // as colod does with its guests, however the benchmark was started
	return vm, nil
}

func primaryChardevs(dir string) []string {
	listen := func(id string, port int) string {
		return fmt.Sprintf("socket,id=%s,host=%s,port=%d,server=on,wait=off,nodelay=on", id, lab.NodeAIPv4, port)
	}
	local := func(id, name, role string) string {
		return fmt.Sprintf("socket,id=%s,path=%s%s", id, filepath.Join(dir, name), role)
	}
	var args []string
	for _, dev := range []string{
		listen("mirror0", portMirror), listen("compare1", portCompare),
		local("compare0", "cmp", ",server=on,wait=off"), local("compare0-0", "cmp", ""),
		local("compare_out", "out", ",server=on,wait=off"), local("compare_out0", "out", ""),
	} {
		args = append(args, "-chardev", dev)
	}
	return args
}

func secondaryChardevs() []string {
	connect := func(id string, port int) string {
		return fmt.Sprintf("socket,id=%s,host=%s,port=%d,reconnect=1,nodelay=on", id, lab.NodeAIPv4, port)
	}
	return []string{"-chardev", connect("red0", portMirror), "-chardev", connect("red1", portCompare),
		"-object", "filter-redirector,id=f1,netdev=net0,queue=tx,indev=red0,vnet_hdr_support=on",
		"-object", "filter-redirector,id=f2,netdev=net0,queue=rx,outdev=red1,vnet_hdr_support=on",
		"-object", "filter-rewriter,id=rew0,netdev=net0,queue=all,vnet_hdr_support=on"}
}

// restore continues the primary from a saved guest.
func (c *Chain) restore(ctx context.Context, file string) error {
	m := c.Primary.Monitor()
	if err := m.Run(ctx, "migrate-incoming", map[string]string{"uri": "exec:cat " + file}, nil); err != nil {
		return err
	}
	for {
		st, err := c.Primary.QueryStatus(ctx)
		if err != nil {
			return err
		}
		if st.Running {
			return c.lab.AwaitGuest(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("continue the saved guest: it is %s: %w", st.Status, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Save boots a guest alone on node a and keeps its state in a file; the guest is ended.
func Save(ctx context.Context, l *lab.Lab, o Options, file string) error {
	c := &Chain{lab: l}
	defer c.Close()
	var err error
	if c.dir, err = os.MkdirTemp(l.Dir(), "q"); err != nil {
		return err
	}
	if err := c.makeTap(ctx, lab.NodeA); err != nil {
		return err
	}
	if c.Primary, err = c.launch(ctx, lab.NodeA, o, primaryChardevs(c.dir), false); err != nil {
		return err
	}
	if err := l.AwaitGuest(ctx); err != nil {
		return err
	}
	m := c.Primary.Monitor()
	if err := m.Run(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": int64(10 << 30)}, nil); err != nil {
		return fmt.Errorf("save the guest: %w", err)
	}
	if err := m.Run(ctx, "migrate", map[string]string{"uri": "exec:cat > " + file}, nil); err != nil {
		return fmt.Errorf("save the guest: %w", err)
	}
	for {
		st, err := c.Primary.QueryMigrate(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("save the guest: %w", err)
		case st.Status == "completed":
			return nil
		case st.Status == "failed":
			return fmt.Errorf("save the guest: %s", st.ErrorDesc)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("save the guest: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// protect adds the primary's filters and starts COLO over a unix socket, which is the fastest channel that QEMU has. The
// filters come last: before COLO runs, nothing would release what the comparison holds.
func (c *Chain) protect(ctx context.Context) error {
	sock := filepath.Join(c.dir, "mig")
	if err := c.Secondary.PrepareSecondary(ctx, sock); err != nil {
		return err
	}
	// QEMU announces a guest that takes over by itself; colod, which does that in its own way, has just turned it off.
	if err := c.Secondary.Monitor().Run(ctx, "migrate-set-parameters", map[string]int{"announce-rounds": announceRounds}, nil); err != nil {
		return err
	}
	if _, err := c.Primary.StartColo(ctx, sock); err != nil {
		return err
	}
	m := c.Primary.Monitor()
	type object = map[string]any
	filter := func(kind, id, queue, end, dev string) object {
		return object{"qom-type": kind, "id": id, "netdev": "net0", "queue": queue, end: dev, "vnet_hdr_support": true}
	}
	for _, o := range []object{
		filter("filter-mirror", "m0", "tx", "outdev", "mirror0"),
		filter("filter-redirector", "redire0", "rx", "indev", "compare_out"),
		filter("filter-redirector", "redire1", "rx", "outdev", "compare0"),
		{"qom-type": "iothread", "id": "iothread1"},
		{"qom-type": "colo-compare", "id": "comp0", "primary_in": "compare0-0", "secondary_in": "compare1", "outdev": "compare_out0",
			"iothread": "iothread1", "vnet_hdr_support": true},
	} {
		if err := m.Run(ctx, "object-add", o, nil); err != nil {
			return fmt.Errorf("add QEMU's %v: %w", o["qom-type"], err)
		}
	}
	c.Comparing = true
	// A write of this parameter is a checkpoint as well: both guests stand at one point when the comparison begins.
	if err := m.Run(ctx, "migrate-set-parameters", map[string]int{"x-checkpoint-delay": checkpointDelay}, nil); err != nil {
		return err
	}
	return c.lab.AwaitGuest(ctx)
}

// TakeOver makes the secondary go on alone, in the order of QEMU's documentation: it leaves COLO and goes on, then its
// redirectors are taken away; the rewriter stays for the connections that there are.
func (c *Chain) TakeOver(ctx context.Context) error {
	c.Comparing = false
	m := c.Secondary.Monitor()
	if err := m.Run(ctx, "x-colo-lost-heartbeat", nil, nil); err != nil {
		return fmt.Errorf("take over with QEMU's COLO: %w", err)
	}
	for _, id := range []string{"f2", "f1"} {
		if err := m.Run(ctx, "object-del", map[string]string{"id": id}, nil); err != nil {
			return fmt.Errorf("take over with QEMU's COLO: remove filter %s: %w", id, err)
		}
	}
	return nil
}

// Close ends both machines and removes their taps and files.
func (c *Chain) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	for _, vm := range []*qmp.VM{c.Primary, c.Secondary} {
		if vm != nil {
			errs = append(errs, vm.Kill(ctx), vm.Close())
		}
	}
	for _, node := range []string{lab.NodeA, lab.NodeB} {
		_ = c.lab.In(node, func() error {
			if _, err := net.InterfaceByName(tap); err == nil {
				errs = append(errs, c.lab.Command(ctx, node, "ip", "link", "del", tap).Run())
			}
			return nil
		})
		errs = append(errs, os.RemoveAll(c.runDir(node)))
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}
