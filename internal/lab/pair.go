package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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
heartbeat: {interval: 50ms, timeout: {{.Timeout}}}{{- if .Endpoints}}
arbiter: {etcd: {endpoints: [{{range $i, $e := .Endpoints}}{{if $i}}, {{end}}{{q $e}}{{end}}], ca: ca.pem, cert: {{.Node}}.pem, key: {{.Node}}.key}}
{{- else}}
arbiter: {file: {path: {{q .Arbiter}}}}
{{- end}}
{{- if .Unlisted}}
spare: {bridge: {{.Bridge}}, tap: spare} # this node is in no pair's list; the registry tells it what it needs
pairs: []
{{- else}}
pairs:
  - name: {{.Pair}}
    nodes:
{{- range .Nodes}}
      - {name: {{.Name}}, address: "{{.Address}}:7420"{{if .Path}}, paths: ["{{.Path}}:7421"]{{end}}}
{{- end}}
    network: {bridge: {{.Bridge}}, tap: vm0, mac: "{{.MAC}}"}
    vm:
{{- if .State.QEMU}}
      qemu: {{q .State.QEMU}}
{{- end}}
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
{{- if .Disks}}
    disks:
{{- range .Disks}}
      - {path: {{q .Path}}, format: raw, size: {{.Size}}, kind: {{.Kind}}}
{{- end}}
{{- end}}
    mode: {{.State.Mode}}
{{- if or .State.Interval .State.Bound}}
    epoch: { {{- with .State.Interval}}interval: {{.}}, {{end}}{{with .State.Bound}}latency_bound: {{.}}{{end -}} }
{{- end}}
{{- if .State.Hold}}
    hold: {min: {{.State.Hold}}, max: 10s}
{{- else if eq .State.Accel "tcg"}}
    hold: {min: 200ms, max: 1s} # an emulated guest is slow after a checkpoint: its code is translated anew
{{- end}}
    state: {encryption: {{.Encryption}}}
{{- if .State.Tolerances}}
    tolerances:
{{- range .State.Tolerances}}
      - {{.}}
{{- end}}
{{- end}}
{{- end}}
`))

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
	return l.writeConfig(node)
}

// writeConfig writes the configuration file of a node.
func (l *Lab) writeConfig(node string) error {
	dir := l.nodeDir(node)
	var text strings.Builder
	type peer struct{ Name, Address, Path string }
	var nodes []peer
	for _, n := range l.Nodes() {
		if l.unlisted(n) {
			continue
		}
		p := peer{Name: n, Address: address(replNet, n)}
		if len(l.paths()) > 1 {
			p.Path = address(pathNet, n)
		}
		nodes = append(nodes, p)
	}
	err := nodeConfig.Execute(&text, map[string]any{
		"Lab": l.Name, "Node": node, "Address": address(replNet, node), "Nodes": nodes, "Endpoints": l.endpoints(), "Unlisted": l.unlisted(node),
		"StateDir": filepath.Join(dir, "state"), "RunDir": l.runDir(node), "Arbiter": filepath.Join(l.dir, "arbiter"),
		"Timeout": l.state.Timeout, "LogLevel": l.state.LogLevel, "Pair": pairName, "Bridge": Bridge,
		"MAC": GuestMAC, "CPU": cpuModel(l.state.Accel), "State": l.state, "Disks": l.disks(node), "Encryption": l.state.Encryption,
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

// SetTolerances writes rules, each as the configuration has it on one line after
// "- ", into the nodes' configuration files; daemons read them when they start.
func (l *Lab) SetTolerances(rules ...string) error {
	l.state.Tolerances = rules
	for _, node := range l.Nodes() {
		if err := l.writeConfig(node); err != nil {
			return fmt.Errorf("set tolerances of node %s: %w", node, err)
		}
	}
	return l.save()
}

// unlisted tells that a node is not in the pair's list, only in the registry.
func (l *Lab) unlisted(node string) bool { return l.state.Registered && node == NodeC }

func (l *Lab) runDir(node string) string     { return filepath.Join(l.nodeDir(node), "r") }
func (l *Lab) configFile(node string) string { return filepath.Join(l.nodeDir(node), "colod.yaml") }

// Socket is the path of the control socket of a node's daemon.
func (l *Lab) Socket(node string) string { return filepath.Join(l.runDir(node), "api.sock") }

// startPair starts the arbiter and the daemons of all nodes; they start the
// guest and protect it by themselves.
func (l *Lab) startPair(ctx context.Context) error {
	authority, err := certs.NewAuthority("colod lab "+l.Name, 365*24*time.Hour)
	if err != nil {
		return err
	}
	if err := authority.Save(filepath.Join(l.dir, "ca.pem"), filepath.Join(l.dir, "ca.key")); err != nil {
		return err
	}
	if err := l.createArbiter(ctx, authority); err != nil {
		return err
	}
	for _, node := range l.Nodes() {
		if err := l.writeNode(node, authority); err != nil {
			return fmt.Errorf("set up node %s: %w", node, err)
		}
	}
	l.progress("starting colod on the nodes " + strings.Join(l.Nodes(), ", ") + ", and the guest on a")
	for _, node := range l.Nodes() {
		if err := l.startDaemon(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// startDaemon starts colod in a node's namespace: kept running as by systemd,
// unless the lab is to leave what ends.
func (l *Lab) startDaemon(_ context.Context, node string) error {
	args := []string{"netns", "exec", l.ns(node), l.state.Program}
	if l.state.NoRestart {
		args = append(args, "run", "--config", l.configFile(node))
	} else {
		args = append(args, "lab", "keep", l.configFile(node))
	}
	_, err := l.startDetached("ip", args, filepath.Join(l.nodeDir(node), "colod.log"), nil)
	return err
}

// ensureDaemon starts a node's colod if nothing runs it, and tells whether it
// did so.
func (l *Lab) ensureDaemon(ctx context.Context, node string) (started bool, err error) {
	if _, err := l.Daemon(node); err == nil {
		return false, nil
	}
	if pid := l.keeper(node); pid != 0 {
		// It starts the daemon itself, or waits to be told after an orderly end.
		return true, syscall.Kill(pid, syscall.SIGUSR1)
	}
	return true, l.startDaemon(ctx, node)
}

// restartColod ends a node's colod in order and starts it again, as an upgrade
// does.
func (l *Lab) restartColod(ctx context.Context, node string) (string, error) {
	old, err := l.Daemon(node)
	if err != nil {
		return "", err
	}
	if pid := l.keeper(node); pid != 0 {
		err = syscall.Kill(pid, syscall.SIGHUP)
	} else {
		err = syscall.Kill(old, syscall.SIGTERM)
	}
	if err != nil {
		return "", err
	}
	// colod brings its pairs to rest within 15 s (deploy/systemd/colod.service).
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		pid, err := l.Daemon(node)
		if err == nil && pid != old {
			return fmt.Sprintf("restarted colod on node %s: process %d after %d", node, pid, old), nil
		}
		if err != nil && l.keeper(node) == 0 {
			if err := l.startDaemon(ctx, node); err != nil {
				return "", err
			}
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return "", fmt.Errorf("restart colod on node %s: process %d did not end within a minute", node, old)
		}
	}
}

// AwaitState returns once the pair is in the given state, and tells of the states
// on the way.
func (l *Lab) AwaitState(ctx context.Context, want string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return l.awaitState(ctx, want, l.progress)
}

func (l *Lab) awaitState(ctx context.Context, want string, progress func(string)) error {
	last := ""
	for {
		st, err := l.Status(ctx)
		if err == nil {
			if now := st.State + ": " + st.Reason; now != last {
				progress(now)
				last = now
			}
			if st.State == want {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for state %s: it is %s", want, orNone(last))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "unknown: no daemon answers"
	}
	return s
}
