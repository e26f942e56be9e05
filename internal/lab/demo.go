package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"colod/coordinator"
	"colod/internal/lab/client"
	"colod/internal/lab/image"
)

// Client prepares a session of checking clients on the client host.
func (l *Lab) Client(ctx context.Context, loads []client.Load) (*client.Session, error) {
	for i := range loads {
		if loads[i].Host == "" {
			loads[i].Host = image.GuestIPv4
		}
		switch loads[i].Kind {
		case client.SSH:
			loads[i].Key, loads[i].Known = l.state.SSHKey, l.state.Known
		case client.HTTPS:
			loads[i].Key = l.state.CACert
		case client.Fetch:
			if loads[i].Own == "" {
				loads[i].Own = ClientIPv4
			}
		}
	}
	cmd := l.Command(ctx, Client, l.state.Program, "lab", "client")
	// Its own group: Ctrl-C is for us to answer, by ending it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return client.Start(cmd, loads)
}

// Summary is the demo's result.
type Summary struct {
	OK          bool                    `json:"ok"`
	Survived    int                     `json:"connections_survived"`
	Connections int                     `json:"connections"`
	Bytes       int64                   `json:"bytes_checked"`
	Lost        int64                   `json:"bytes_lost"`
	Repeated    int64                   `json:"bytes_repeated"`
	Corrupt     int64                   `json:"bytes_corrupt"`
	GapMS       float64                 `json:"gap_ms"` // longest wait of a client from the kill to the next thing it heard
	PauseMS     float64                 `json:"longest_pause_ms"`
	TakeoverMS  float64                 `json:"takeover_ms"` // from the kill to the other node speaking
	Checkpoints coordinator.Checkpoints `json:"checkpoints"`
	Divergences coordinator.Divergences `json:"divergences"`
	Speaker     string                  `json:"speaker"`
	Protected   bool                    `json:"protected_again"`
	Accel       string                  `json:"accel"`
	Clients     []client.Report         `json:"clients"`
	Seconds     float64                 `json:"seconds"`
	Error       string                  `json:"error,omitempty"`
}

// demo is one run of the demonstration.
type demo struct {
	out   io.Writer
	color bool
	start time.Time
	lab   *Lab
	sum   Summary
}

func demoCommand(name *string) *cobra.Command {
	opt := Options{}
	asJSON, keep := false, false
	c := &cobra.Command{
		Use: "demo", Short: "See a guest survive the loss of its host", Args: cobra.NoArgs,
		Long: `Bring a lab up, connect real clients to its guest, kill the virtual machine that
serves them, and check that no client lost a byte. Exit code 0 only if none did.`,
		Example: "  colod lab demo\n  colod lab demo --json\n  colod lab demo --keep",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if opt.Name = *name; !cmd.Flags().Changed("name") {
				opt.Name = fmt.Sprintf("demo-%d", os.Getpid())
			}
			d := &demo{out: cmd.OutOrStdout(), start: time.Now(), color: isTerminal(cmd.OutOrStdout())}
			if asJSON {
				d.out, d.color = cmd.ErrOrStderr(), isTerminal(cmd.ErrOrStderr())
			}
			opt.Progress = func(s string) { d.say(dim, s) }
			err := d.run(ctx, opt)
			if d.lab != nil {
				if keep && err == nil {
					d.say(bold, fmt.Sprintf("the lab stays: colod lab --name %s exec client -- ..., and colod lab --name %s down", opt.Name, opt.Name))
				} else {
					clear, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
					defer cancel()
					if derr := d.lab.Down(clear); derr != nil {
						err = errors.Join(err, derr)
					} else {
						d.say(dim, "the lab is cleared away")
					}
				}
			}
			if ctx.Err() != nil && err != nil {
				err = errors.New("interrupted; the lab is cleared away")
			}
			d.sum.OK = err == nil
			d.sum.Seconds = time.Since(d.start).Seconds()
			if err != nil {
				d.sum.Error = err.Error()
			}
			if asJSON {
				return errors.Join(printJSON(cmd.OutOrStdout(), d.sum), err)
			}
			return err
		},
	}
	f := c.Flags()
	f.IntVar(&opt.SMP, "smp", 1, "processors of the guest")
	f.StringVar(&opt.Memory, "memory", "256M", "memory of the guest")
	f.StringVar(&opt.Accel, "accel", "auto", "kvm, tcg, or auto: KVM where it works")
	f.BoolVar(&asJSON, "json", false, "print the summary as one JSON object")
	f.BoolVar(&keep, "keep", false, "leave the lab up at the end")
	return c
}

// isTerminal tells whether output goes to a person.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == ""
}

// Styles of a line on a terminal (ECMA-48, SGR).
const (
	plain = ""
	dim   = "2"
	bold  = "1"
	red   = "1;31"
	green = "1;32"
)

// say prints one line with the time since the start.
func (d *demo) say(style, s string) {
	at := fmt.Sprintf("%6.1f s  ", time.Since(d.start).Seconds())
	if d.color && style != plain {
		s = "\x1b[" + style + "m" + s + "\x1b[0m"
	}
	fmt.Fprintln(d.out, at+s)
}

// What the demo's clients do, in words.
var demoClients = []client.Load{
	{Kind: client.Echo, Name: "echo", Rate: 200 << 10},
	{Kind: client.Echo, Name: "echo over IPv6", Host: image.GuestIPv6, Rate: 100 << 10},
	{Kind: client.Download, Name: "download", Size: 4 << 20, Rate: 1 << 20},
	{Kind: client.SSH, Name: "ssh session"},
	{Kind: client.Redis, Name: "redis", Rate: 10},
}

// Times of the demo: how long clients work before and after the loss.
const (
	demoBefore = 5 * time.Second
	demoAfter  = 5 * time.Second
)

func (d *demo) run(ctx context.Context, opt Options) error {
	var err error
	if _, err := exec.LookPath("ssh"); err != nil {
		return errors.New("run demo: ssh not found (package openssh-client: make setup installs it)")
	}
	d.say(bold, "A guest on two hosts. One host will lose its virtual machine; the clients must not notice.")
	if d.lab, err = Up(ctx, opt); err != nil {
		return err
	}
	d.sum.Accel, d.sum.Connections = d.lab.state.Accel, len(demoClients)
	before, err := d.lab.Status(ctx)
	if err != nil {
		return err
	}
	d.say(bold, "protected: node "+before.Speaker+" speaks, its twin on node "+otherNode(before.Speaker)+" runs in lock-step")

	d.say(plain, "connecting the clients: numbered bytes echoed, a download, an ssh session that counts, redis")
	session, err := d.lab.Client(ctx, demoClients)
	if err != nil {
		return err
	}
	defer session.Close()
	if _, err := session.Await(3*time.Minute, func(r client.Report) bool { return r.Open && r.Bytes > 0 }); err != nil {
		return err
	}
	if err := d.watch(ctx, session, demoBefore); err != nil {
		return err
	}

	if before, err = d.lab.Status(ctx); err != nil {
		return err
	}
	victim := before.Speaker
	said, err := d.lab.Fault(ctx, KillVM, victim)
	if err != nil {
		return err
	}
	killed := time.Now()
	// From here on the pauses are those that the loss causes.
	if _, err := session.Mark(); err != nil {
		return err
	}
	late := time.Since(killed)
	d.say(red, said+" (SIGKILL)")
	after, err := d.awaitTakeover(ctx, victim)
	if err != nil {
		return err
	}
	d.sum.TakeoverMS = float64(time.Since(killed).Microseconds()) / 1000
	d.say(green, fmt.Sprintf("node %s speaks, generation %d: %s", after.Speaker, after.Generation, after.Reason))
	if err := d.watch(ctx, session, demoAfter); err != nil {
		return err
	}
	reports, err := session.Mark()
	if err != nil {
		return err
	}
	for _, r := range reports {
		d.sum.PauseMS = max(d.sum.PauseMS, r.PauseMS)
		d.sum.GapMS = max(d.sum.GapMS, r.FirstMS+float64(late.Microseconds())/1000)
	}
	d.say(plain, "waiting for a new twin")
	if err := d.lab.AwaitState(ctx, "protected"); err != nil {
		return err
	}
	d.sum.Protected = true
	last, err := session.Stop()
	if err != nil {
		return err
	}
	// The pauses of the takeover, not those of the end.
	for i := range last {
		last[i].PauseMS, last[i].FirstMS = reports[i].PauseMS, reports[i].FirstMS
	}
	if st, err := d.lab.Status(ctx); err == nil {
		d.sum.Speaker = st.Speaker
	}
	d.sum.Checkpoints, d.sum.Divergences = before.Checkpoints, before.Divergences
	return d.summarise(last)
}

// awaitTakeover returns once the other node speaks alone or is protected again.
func (d *demo) awaitTakeover(ctx context.Context, victim string) (*Status, error) {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		st, err := d.lab.nodeStatus(ctx, otherNode(victim))
		if err == nil && st.Speaker != victim {
			return st, nil
		}
		if time.Now().After(deadline) {
			if err == nil {
				err = fmt.Errorf("it is %s: %s", st.State, st.Reason)
			}
			return nil, fmt.Errorf("wait for node %s to take over: %w", otherNode(victim), err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// watch shows once a second what happens, for the given time.
func (d *demo) watch(ctx context.Context, session *client.Session, long time.Duration) error {
	end := time.Now().Add(long)
	for time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		reports, err := session.Report()
		if err != nil {
			return err
		}
		line := clientLine(reports)
		if st, err := d.lab.Status(ctx); err == nil {
			line = fmt.Sprintf("%s on %s | released %s | checkpoints %d (%s) | %s", st.State, st.Speaker,
				bytesText(int64(st.Released.Bytes)), st.Checkpoints.Count, counts(st.Checkpoints.Reasons), line)
		}
		d.say(plain, line)
	}
	return nil
}

func clientLine(reports []client.Report) string {
	var total, bad int64
	ssh, broken := "", 0
	for _, r := range reports {
		total += r.Bytes
		bad += r.Lost + r.Repeated + r.Corrupt
		if r.Error != "" {
			broken++
		}
		if r.Kind == client.SSH {
			ssh = r.Last
		}
	}
	return fmt.Sprintf("checked %s, %d wrong, %d connections broken, ssh says %q", bytesText(total), bad, broken, ssh)
}

func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

// summarise adds up and shows what the clients saw; its error says what was lost.
func (d *demo) summarise(reports []client.Report) error {
	s := &d.sum
	s.Clients = reports
	var errs []error
	for _, r := range reports {
		s.Bytes += r.Bytes
		s.Lost += r.Lost
		s.Repeated += r.Repeated
		s.Corrupt += r.Corrupt
		if r.Clean() && r.Done {
			s.Survived++
		} else {
			errs = append(errs, fmt.Errorf("client %s: lost %d, repeated %d, corrupt %d bytes; %s", r.Name, r.Lost, r.Repeated, r.Corrupt, orNothing(r.Error)))
		}
	}
	fmt.Fprintln(d.out)
	for _, r := range reports {
		fmt.Fprintf(d.out, "  %-16s %12s checked, %d wrong, silent for %.0f ms after the kill\n", r.Name, bytesText(r.Bytes), r.Lost+r.Repeated+r.Corrupt, r.FirstMS)
	}
	fmt.Fprintf(d.out, "  %-16s %d of %d\n", "survived", s.Survived, s.Connections)
	fmt.Fprintf(d.out, "  %-16s %d lost, %d repeated, %d corrupt of %d\n", "bytes", s.Lost, s.Repeated, s.Corrupt, s.Bytes)
	fmt.Fprintf(d.out, "  %-16s %.0f ms at the takeover (the other node spoke after %.0f ms), %.0f ms at most while its new twin was made\n", "pause",
		s.GapMS, s.TakeoverMS, s.PauseMS)
	fmt.Fprintf(d.out, "  %-16s %d before the loss (%s), guest stopped p50 %.1f ms, max %.1f ms\n", "checkpoints", s.Checkpoints.Count,
		counts(s.Checkpoints.Reasons), s.Checkpoints.PauseMS.P50, s.Checkpoints.PauseMS.Max)
	fmt.Fprintln(d.out)
	if len(errs) > 0 {
		d.say(red, "something was lost")
		return errors.Join(errs...)
	}
	d.say(green, "nothing was lost")
	return nil
}

func orNothing(s string) string {
	if s == "" {
		return "no error"
	}
	return s
}
