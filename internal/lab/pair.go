package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"colod/coordinator/config"
	"colod/internal/certs"
)

// pairName is the name of the lab's pair.
const pairName = "guest"

// nodeConfig is the configuration file of a node, as an operator would write it.
var nodeConfig = template.Must(template.New("colod.yaml").Funcs(template.FuncMap{"q": strconv.Quote}).Parse(
	`# Node {{.Node}} of the lab {{.Lab}}.
node: {{.Node}}
listen: {{.Address}}:7420
tls: {ca: ca.pem, cert: {{.Node}}.pem, key: {{.Node}}.key}
state_dir: {{q .StateDir}}
run_dir: {{q .RunDir}}
log: {level: {{.LogLevel}}, format: console}
heartbeat: {interval: 50ms, timeout: {{.Timeout}}}
arbiter: {file: {path: {{q .Arbiter}}}}
pairs:
  - name: {{.Pair}}
    nodes: [{name: a, address: "{{.AddressA}}:7420"}, {name: b, address: "{{.AddressB}}:7420"}]
    network: {bridge: {{.Bridge}}, tap: vm0, mac: "{{.MAC}}"}
    vm:
      accel: {{.State.Accel}}
      cpu: {{q .CPU}}
      smp: {{.State.SMP}}
      memory: {{.State.Memory}}
      kernel: {{q .State.Kernel}}
      initrd: {{q .State.Initrd}}
      append: {{q .State.Append}}
{{- if .State.Shim}}
      env: {LD_PRELOAD: {{q .State.Shim}}} # lets QEMU run COLO without KVM
{{- end}}
    mode: {{.State.Mode}}
{{- if eq .State.Accel "tcg"}}
    hold: {min: 200ms, max: 1s} # an emulated guest is slow after a checkpoint: its code is translated anew
{{- end}}
    state: {encryption: {{.Encryption}}}
`))

// heartbeatTimeout is the silence after which a node of the lab is taken for lost.
// Without KVM everything shares the host's processors, and a busy guest makes
// heartbeats late.
func heartbeatTimeout(accel string) time.Duration {
	if accel == "kvm" {
		return 250 * time.Millisecond
	}
	return 600 * time.Millisecond
}

// writeNode makes the directory of a node: configuration and certificates.
func (l *Lab) writeNode(node string, authority *certs.Authority) error {
	dir := l.nodeDir(node)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	id, err := authority.Issue(node, 365*24*time.Hour)
	if err != nil {
		return err
	}
	if err := id.Save(filepath.Join(dir, node+".pem"), filepath.Join(dir, node+".key")); err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(l.dir, "ca.pem"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o644); err != nil {
		return err
	}
	var text strings.Builder
	err = nodeConfig.Execute(&text, map[string]any{
		"Lab": l.Name, "Node": node, "Address": nodeAddress(node), "AddressA": NodeAIPv4, "AddressB": NodeBIPv4,
		"StateDir": filepath.Join(dir, "state"), "RunDir": l.runDir(node), "Arbiter": filepath.Join(l.dir, "arbiter"),
		"Timeout": heartbeatTimeout(l.state.Accel), "LogLevel": l.state.LogLevel, "Pair": pairName, "Bridge": Bridge,
		"MAC": GuestMAC, "CPU": cpuModel(l.state.Accel), "State": l.state, "Encryption": l.state.Encryption,
	})
	if err != nil {
		return err
	}
	// Read as the daemon will read it: a mistake here is ours, not the user's.
	if _, err := config.Parse(l.configFile(node), []byte(text.String())); err != nil {
		return err
	}
	return os.WriteFile(l.configFile(node), []byte(text.String()), 0o644)
}

func (l *Lab) runDir(node string) string     { return filepath.Join(l.nodeDir(node), "r") }
func (l *Lab) configFile(node string) string { return filepath.Join(l.nodeDir(node), "colod.yaml") }

// Socket is the path of the control socket of a node's daemon.
func (l *Lab) Socket(node string) string { return filepath.Join(l.runDir(node), "api.sock") }

// startPair starts the daemons of both nodes; they start the guest and protect
// it by themselves.
func (l *Lab) startPair(ctx context.Context) error {
	authority, err := certs.NewAuthority("colod lab "+l.Name, 365*24*time.Hour)
	if err != nil {
		return err
	}
	if err := authority.Save(filepath.Join(l.dir, "ca.pem"), filepath.Join(l.dir, "ca.key")); err != nil {
		return err
	}
	for _, node := range Nodes {
		if err := l.writeNode(node, authority); err != nil {
			return fmt.Errorf("set up node %s: %w", node, err)
		}
	}
	l.progress("starting colod on the nodes a and b, and the guest on a")
	for _, node := range Nodes {
		if err := l.startDaemon(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// startDaemon starts colod in a node's namespace, as an ordinary service.
func (l *Lab) startDaemon(_ context.Context, node string) error {
	return l.startDetached("ip", []string{"netns", "exec", l.ns(node), l.state.Program, "run", "--config", l.configFile(node)},
		filepath.Join(l.nodeDir(node), "colod.log"), nil)
}

// AwaitState returns once the pair is in the given state, and tells of the states
// on the way.
func (l *Lab) AwaitState(ctx context.Context, want string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	last := ""
	for {
		st, err := l.Status(ctx)
		if err == nil {
			if now := st.State + ": " + st.Reason; now != last {
				l.progress(now)
				last = now
			}
			if st.State == want {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("it is %s", last)
			}
			return fmt.Errorf("wait for state %s: %w", want, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
