package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"colod/internal/lab/client"
	"colod/internal/lab/witness"
)

// TortureOptions say what a torture does. See Torture.
type TortureOptions struct {
	Lab      Options
	Use      bool          // of a lab that is up; else one is made and ended
	Seed     uint64        // of the schedule
	For      time.Duration // after this no new step is begun
	Steps    int           // at most so many steps; 0 = no limit
	From     int           // the first step's number; 0 = 1
	Only     []string      // kinds of steps to choose from; nil = all
	KeepOn   bool          // go on after a failure, with new connections where some broke
	Evidence string        // directory that gets the logs when something failed
	Out      io.Writer     // told what happens
}

// TortureReport is the result of a torture.
type TortureReport struct {
	OK        bool             `json:"ok"`
	Seed      uint64           `json:"seed"`
	Nodes     int              `json:"nodes"`
	Paths     int              `json:"paths"`
	Members   int              `json:"members"` // of etcd; 0 = file arbiter
	Accel     string           `json:"accel"`
	Seconds   float64          `json:"seconds"`
	Load      float64          `json:"load_average"` // of the machine at the end, one minute
	Kinds     map[string]int   `json:"kinds"`        // steps by kind
	Steps     []StepReport     `json:"steps"`
	Bytes     int64            `json:"bytes_checked"`
	Lost      int64            `json:"bytes_lost"`
	Repeated  int64            `json:"bytes_repeated"`
	Corrupt   int64            `json:"bytes_corrupt"`
	Broken    int              `json:"connections_broken"`
	Datagrams [2]int64         `json:"datagrams"` // answered, lost: as any network may
	Clients   []client.Report  `json:"clients"`
	Witness   witness.Report   `json:"witness"`
	Usage     map[string]Usage `json:"usage"` // of the daemons, by node
	Changes   int              `json:"speaker_changes"`
	// Unprovoked are losses of protection that no step was the cause of: false
	// suspicions, mostly. They cost a copy of the guest and no byte.
	Unprovoked []string `json:"unprovoked"`
	Protected  bool     `json:"protected_at_end"`
	Failures   []string `json:"failures"`
	Evidence   string   `json:"evidence,omitempty"`
}

// StepReport is what came of one step.
type StepReport struct {
	Step
	At          float64 `json:"at"`              // seconds after the start of the torture
	Did         string  `json:"did"`             // in the lab's words
	Before      string  `json:"speaker_before"`  //
	Speaker     string  `json:"speaker"`         // at the end
	Generation  uint64  `json:"generation"`      // at the end
	GapMS       float64 `json:"gap_ms"`          // from the fault until every connection heard something again, at most
	GapOf       string  `json:"gap_of"`          // the connection
	ProtectedMS float64 `json:"protected_ms"`    // from mending until protected
	Turns       uint64  `json:"turns"`           // how often another node than before was heard by clients
	Note        string  `json:"note,omitempty"`  // what could not be done, and why that is no failure
	Error       string  `json:"error,omitempty"` // why the step failed
}

// Limits of a torture's waits. They are far over what anything should take, and
// end what will never come.
const (
	protectLimit  = 4 * time.Minute
	survivorLimit = 90 * time.Second
	transferLimit = 4 * time.Minute
	opLimit       = 90 * time.Second
)

// torture is one that runs.
type torture struct {
	opt     TortureOptions
	lab     *Lab
	terms   terms
	start   time.Time
	report  *TortureReport
	session *client.Session
	usage   *UsageLog
	witness *witness.Witness
	last    *Status // at the end of the step before
}

// Torture makes random faults under random, checked load until the time is
// over, and tells what came of it. Each step waits for protection first: a
// single loss is what colod promises to survive; some steps add a second fault
// that spares the survivor. The error is that of the torture itself; what it
// found is in the report.
func Torture(ctx context.Context, opt TortureOptions) (rep *TortureReport, err error) {
	t := &torture{opt: opt, start: time.Now(), report: &TortureReport{Seed: opt.Seed, Kinds: map[string]int{}}}
	if t.opt.Out == nil {
		t.opt.Out = io.Discard
	}
	if t.opt.From == 0 {
		t.opt.From = 1
	}
	if opt.Use {
		if t.lab, err = Open(opt.Lab.Name); err != nil {
			return nil, err
		}
	} else {
		t.opt.Lab.Progress = t.say
		if t.lab, err = Up(ctx, t.opt.Lab); err != nil {
			return nil, err
		}
		defer func() {
			clear, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, t.lab.Down(clear))
		}()
	}
	if t.lab.state.Native || t.lab.state.Bare {
		return nil, errors.New("torture lab: it has no pair")
	}
	t.start = time.Now()
	if err := t.run(ctx); err != nil {
		return nil, err
	}
	return t.report, nil
}

func (t *torture) say(s string) {
	fmt.Fprintf(t.opt.Out, "%s %8.1f s  %s\n", time.Now().UTC().Format("15:04:05.000"), time.Since(t.start).Seconds(), s)
}

func (t *torture) fail(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	t.report.Failures = append(t.report.Failures, s)
	t.say("FAILED: " + s)
}

func (t *torture) run(ctx context.Context) error {
	l, r := t.lab, t.report
	t.terms = terms{nodes: len(l.Nodes()), paths: len(l.paths()), members: len(l.Members()), ops: l.operations(ctx), only: t.opt.Only}
	r.Nodes, r.Paths, r.Members, r.Accel = t.terms.nodes, t.terms.paths, t.terms.members, l.state.Accel
	if len(choices(t.terms)) == 0 {
		return fmt.Errorf("torture lab: no kind of step is left of %s", strings.Join(t.opt.Only, ", "))
	}
	w, err := l.Witness()
	if err != nil {
		return err
	}
	defer w.Close()
	t.witness = w
	if err := l.AwaitState(ctx, "protected"); err != nil {
		return err
	}
	if t.session, err = t.connect(ctx, slices.Clone(lasting)); err != nil {
		return err
	}
	defer func() { t.session.Close() }()
	t.usage = NewUsageLog()
	t.say(fmt.Sprintf("seed %d, %d nodes, %d paths, %d members of etcd, %s", t.opt.Seed, r.Nodes, r.Paths, r.Members, r.Accel))
	for n := t.opt.From; time.Since(t.start) < t.opt.For && ctx.Err() == nil; n++ {
		if t.opt.Steps > 0 && n >= t.opt.From+t.opt.Steps {
			break
		}
		sr := t.step(ctx, step(t.opt.Seed, n, t.terms))
		r.Steps = append(r.Steps, sr)
		r.Kinds[sr.What]++
		if sr.Error != "" {
			if ctx.Err() != nil {
				break
			}
			t.fail("step %d (%s): %s", n, sr.Step, sr.Error)
			if !t.opt.KeepOn {
				break
			}
			if err := t.renew(ctx); err != nil {
				t.fail("new connections after step %d: %v", n, err)
				break
			}
		}
		t.usage.Sample(ctx, l)
	}
	t.finish(ctx)
	if r.Witness, err = w.Report(); err != nil {
		t.fail("the witness went blind: %v", err)
	}
	t.judge()
	r.Seconds = time.Since(t.start).Seconds()
	r.Load = loadAverage()
	r.OK = len(r.Failures) == 0
	if !r.OK && t.opt.Evidence != "" {
		if err := t.lab.SaveLogs(t.opt.Evidence); err != nil {
			t.say(err.Error())
		}
		r.Evidence = t.opt.Evidence
	}
	return ctx.Err()
}

// connect starts clients and waits until each works.
func (t *torture) connect(ctx context.Context, loads []client.Load) (*client.Session, error) {
	s, err := t.lab.Client(ctx, loads)
	if err != nil {
		return nil, err
	}
	if _, err := s.Await(2*time.Minute, func(r client.Report) bool { return r.Open || r.Done }); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// count adds what clients saw to the report.
func (t *torture) count(reports []client.Report) (broken []string) {
	r := t.report
	for _, c := range reports {
		r.Bytes += c.Bytes
		if c.Kind == client.UDPEcho {
			r.Datagrams[0] += c.Rounds
			r.Datagrams[1] += c.Lost
		} else {
			r.Lost += c.Lost
			r.Repeated += c.Repeated
		}
		r.Corrupt += c.Corrupt
		if c.Error != "" {
			r.Broken++
		}
		if !c.Clean() {
			broken = append(broken, fmt.Sprintf("%s: lost %d, repeated %d, corrupt %d, %s", c.Name, c.Lost, c.Repeated, c.Corrupt, orNothing(c.Error)))
		}
	}
	return broken
}

// renew mends everything and replaces the lasting connections, after a failure.
func (t *torture) renew(ctx context.Context) error {
	if reports, err := t.session.Report(); err == nil {
		t.count(reports)
	}
	t.session.Close()
	if _, err := t.lab.Fault(ctx, Heal, ""); err != nil {
		return err
	}
	if err := t.await(ctx, "protected", protectLimit); err != nil {
		return err
	}
	s, err := t.connect(ctx, slices.Clone(lasting))
	if err != nil {
		return err
	}
	t.session = s
	return nil
}

func (t *torture) await(ctx context.Context, state string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return t.lab.awaitState(ctx, state, func(string) {})
}

// step carries one step out and checks what clients saw of it.
func (t *torture) step(ctx context.Context, s Step) (sr StepReport) {
	sr = StepReport{Step: s}
	if err := t.await(ctx, "protected", protectLimit); err != nil {
		sr.Error = "not protected before it: " + err.Error()
		return sr
	}
	extra, err := t.extra(ctx, s.Load)
	if err != nil {
		sr.Error = err.Error()
		return sr
	}
	if extra != nil {
		defer extra.Close()
	}
	if !sleep(ctx, s.Wait) {
		return sr
	}
	// The load may have cost the protection for a moment; what a step is about is one fault.
	if err := t.await(ctx, "protected", protectLimit); err != nil {
		sr.Error = "not protected before it: " + err.Error()
		return sr
	}
	before, err := t.lab.Status(ctx)
	if err != nil {
		sr.Error = err.Error()
		return sr
	}
	t.unprovoked(t.last, before, fmt.Sprintf("before step %d", s.N))
	heard, err := t.witness.Report()
	if err != nil {
		sr.Error = err.Error()
		return sr
	}
	sr.At, sr.Before = time.Since(t.start).Seconds(), before.Speaker
	t.say(fmt.Sprintf("step %d: %s (%s speaks, %s stands by, generation %d)", s.N, s, before.Speaker, before.Standby, before.Generation))
	if _, err := t.session.Mark(); err != nil {
		sr.Error = err.Error()
		return sr
	}
	if err := t.carryOut(ctx, s, before, &sr); err != nil {
		sr.Error = err.Error()
	}
	// Mended also when something failed: what follows must not suffer.
	if said, err := t.lab.Fault(context.WithoutCancel(ctx), Heal, ""); err != nil {
		sr.Error = join(sr.Error, "mend: "+err.Error())
	} else if said != "mended the wires" {
		sr.Did += "; " + said
	}
	mended := time.Now()
	refusable := s.What == opFailover && s.Away != "" // without the arbiter it is refused, and the pair goes on
	if sr.Error == "" && !refusable && slices.Contains([]string{KillVM, KillNode, opFailover}, s.What) && s.On != roleSpare {
		// Nothing of the sort may pass unnoticed.
		if err := t.awaitChange(ctx, before); err != nil {
			sr.Error = err.Error()
		}
	}
	if err := t.await(ctx, "protected", protectLimit); err != nil {
		sr.Error = join(sr.Error, "not protected again: "+err.Error())
	}
	sr.ProtectedMS = float64(time.Since(mended).Milliseconds())
	if extra != nil {
		reports, err := t.finishExtra(extra)
		if err != nil {
			sr.Error = join(sr.Error, err.Error())
		}
		if broken := t.count(reports); len(broken) > 0 {
			sr.Error = join(sr.Error, strings.Join(broken, "; "))
		}
	}
	reports, err := t.session.Report()
	if err != nil {
		sr.Error = join(sr.Error, err.Error())
	}
	for _, r := range reports {
		if r.Kind != client.UDPEcho {
			if r.FirstMS > sr.GapMS {
				sr.GapMS, sr.GapOf = r.FirstMS, r.Name
			}
		}
		if !r.Clean() {
			sr.Error = join(sr.Error, fmt.Sprintf("client %s: lost %d, repeated %d, corrupt %d, %s", r.Name, r.Lost, r.Repeated, r.Corrupt, orNothing(r.Error)))
		}
	}
	if after, err := t.lab.Status(ctx); err == nil {
		sr.Speaker, sr.Generation = after.Speaker, after.Generation
		if after.Speaker != before.Speaker {
			t.report.Changes++
		}
		t.last = after
		t.turns(heard, &sr)
		if slices.Contains([]string{opCheckpoint, opPause, CutLAN, StopArbiter, CutArbiter}, s.What) && s.Also == "" {
			t.unprovoked(before, after, fmt.Sprintf("in step %d (%s)", s.N, s))
		}
	}
	t.say(fmt.Sprintf("        %s: gap %.0f ms (%s), protected %.1f s after mending, %s speaks, generation %d", sr.Did, sr.GapMS, sr.GapOf, sr.ProtectedMS/1000, sr.Speaker, sr.Generation))
	return sr
}

// turns notes how often the speaker changed on the wire. More often than the
// roles did is no error as long as all said the same, but worth a line.
func (t *torture) turns(before witness.Report, sr *StepReport) {
	now, err := t.witness.Report()
	if err != nil {
		return
	}
	sr.Turns = now.Turns - before.Turns
	if sr.Turns < 2 {
		return
	}
	for _, turn := range now.Last[max(0, len(now.Last)-int(sr.Turns)-1):] {
		t.say(fmt.Sprintf("        %s heard from %s to %s, %d frames, first %s", turn.Node, turn.From.Format("05.000000"), turn.To.Format("05.000000"), turn.Frames, turn.First))
	}
}

// unprovoked notes that the record changed though nothing was done that
// explains it.
func (t *torture) unprovoked(before, after *Status, when string) {
	if before == nil || after.Generation == before.Generation {
		return
	}
	s := fmt.Sprintf("%s: generation %d to %d, speaker %s to %s: %s", when, before.Generation, after.Generation, before.Speaker, after.Speaker, t.lab.lastLoss(after.Node))
	t.report.Unprovoked = append(t.report.Unprovoked, s)
	t.say("UNPROVOKED " + s)
}

// lastLoss is the newest reason in a node's log for which protection ended.
func (l *Lab) lastLoss(node string) string {
	data, _ := os.ReadFile(filepath.Join(l.nodeDir(node), "colod.log"))
	lines := strings.Split(string(data), "\n")
	for _, line := range slices.Backward(lines) {
		if strings.Contains(line, "state=claiming") || strings.Contains(line, "state=fenced") {
			return line
		}
	}
	return "no reason in the log"
}

// awaitChange returns once the record is a newer one.
func (t *torture) awaitChange(ctx context.Context, before *Status) error {
	ctx, cancel := context.WithTimeout(ctx, protectLimit)
	defer cancel()
	for {
		if st, err := t.lab.Status(ctx); err == nil && st.Generation > before.Generation {
			return nil
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return fmt.Errorf("the fault was not noticed: the record is still of generation %d", before.Generation)
		}
	}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// extra starts a step's own transfers.
func (t *torture) extra(ctx context.Context, loads []client.Load) (*client.Session, error) {
	if len(loads) == 0 {
		return nil, nil
	}
	return t.connect(ctx, slices.Clone(loads))
}

// finishExtra waits until a step's transfers are done; those without an end are told.
func (t *torture) finishExtra(s *client.Session) ([]client.Report, error) {
	for deadline := time.Now().Add(transferLimit); ; {
		reports, err := s.Report()
		if err != nil {
			return nil, err
		}
		open := slices.ContainsFunc(reports, func(r client.Report) bool { return !r.Done && r.Error == "" && r.Kind != client.Echo })
		if !open {
			return s.Stop()
		}
		if time.Now().After(deadline) {
			return reports, fmt.Errorf("a transfer does not end: %+v", reports)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// carryOut makes the faults of a step.
func (t *torture) carryOut(ctx context.Context, s Step, before *Status, sr *StepReport) error {
	victim := t.victim(s.On, before)
	if s.On != "" && victim == "" {
		sr.Note = "there is no " + s.On
		return nil
	}
	if err := t.sendAway(ctx, s.Away, s.N); err != nil {
		return err
	}
	var said string
	var err error
	held := s.For
	switch s.What {
	case oneWay:
		said, err = t.lab.Break(ctx, Fault{Kind: Partition, From: victim})
	case Blip:
		held = 0
		said, err = t.lab.Break(ctx, Fault{Kind: Blip, Path: s.Path, For: s.For})
	case CutPath:
		said, err = t.lab.Break(ctx, Fault{Kind: CutPath, Path: s.Path})
	case StopArbiter, CutArbiter:
		said, err = t.lab.Break(ctx, Fault{Kind: s.What, Path: AllPaths})
	case Partition:
		said, err = t.lab.Break(ctx, Fault{Kind: Partition, Path: AllPaths})
	case opFailover, opSwitchover, opCheckpoint, opPause, opMigrate:
		said, err = t.operate(ctx, s, before, sr)
		held = 0
	default:
		said, err = t.lab.Break(ctx, Fault{Kind: s.What, Node: victim, Path: AllPaths})
	}
	sr.Did = said
	if err != nil {
		return err
	}
	begun := time.Now()
	if s.Also != "" {
		if err := t.also(ctx, s, before, sr); err != nil {
			return err
		}
	}
	if s.Away != "" {
		// Long enough for every time-out to have passed once.
		held = max(held, 3*time.Second)
	}
	sleep(ctx, held-time.Since(begun))
	return nil
}

// victim is the node that has a role.
func (t *torture) victim(role string, st *Status) string {
	switch role {
	case roleSpeaker:
		return st.Speaker
	case roleSecondary:
		return st.Standby
	case roleSpare:
		for _, n := range t.lab.Nodes() {
			if n != st.Speaker && n != st.Standby {
				return n
			}
		}
	}
	return ""
}

// sendAway takes the arbiter away, or a member of it.
func (t *torture) sendAway(ctx context.Context, how string, n int) error {
	f := Fault{Kind: StopArbiter, Path: AllPaths}
	switch how {
	case "":
		return nil
	case "cut off":
		f.Kind = CutArbiter
	case "one":
		f.Member = memberName(n % t.terms.members)
	}
	_, err := t.lab.Break(ctx, f)
	return err
}

// also makes the second fault: after a survivor speaks alone, and never to its
// VM, which is then the only one.
func (t *torture) also(ctx context.Context, s Step, before *Status, sr *StepReport) error {
	limit, cancel := context.WithTimeout(ctx, survivorLimit)
	defer cancel()
	var now *Status
	for {
		st, err := t.lab.Status(limit)
		if err == nil && st.Generation > before.Generation && (st.State == "solo" || st.State == "syncing" || st.State == "protected") {
			now = st
			break
		}
		if s.Away != "" && time.Since(t.start) > 0 {
			// Nobody can win while the arbiter is away.
			if _, err := t.lab.Fault(ctx, Heal, ""); err != nil {
				return err
			}
		}
		if !sleep(limit, 20*time.Millisecond) {
			sr.Note = "no survivor spoke in time for the second fault"
			return nil
		}
	}
	if !sleep(ctx, s.After) {
		return nil
	}
	if st, err := t.lab.Status(ctx); err == nil {
		now = st
	}
	kind, role, _ := strings.Cut(s.Also, " of ")
	f := Fault{Kind: kind, Path: AllPaths, For: time.Second}
	switch role {
	case roleSpeaker:
		f.Node = now.Speaker
	case roleSecondary:
		for _, n := range t.lab.Nodes() {
			if _, err := t.lab.VM(n); n != now.Speaker && (kind != KillVM || err == nil) {
				f.Node = n
			}
		}
		if f.Node == "" {
			sr.Note = "there was no second VM yet for " + s.Also
			return nil
		}
	}
	said, err := t.lab.Break(ctx, f)
	if err != nil {
		// What was there a moment ago may have ended.
		sr.Note = "second fault: " + err.Error()
		return nil
	}
	sr.Did += "; " + said
	if kind == Partition {
		sleep(ctx, 2*time.Second)
	}
	return nil
}

// operations tells which planned operations the program knows.
func (l *Lab) operations(ctx context.Context) map[string]bool {
	has := map[string]bool{}
	for op, words := range map[string][]string{opFailover: {"failover"}, opSwitchover: {"switchover"}, opCheckpoint: {"checkpoint"},
		opPause: {"vm", "cont"}, opMigrate: {"migrate"}} {
		out, err := exec.CommandContext(ctx, l.state.Program, append(words, "--help")...).Output()
		has[op] = err == nil && strings.Contains(string(out), "colod "+strings.Join(words, " "))
	}
	return has
}

// Operate runs one of the operator's commands on the pair, at a node's daemon.
func (l *Lab) Operate(ctx context.Context, node string, words ...string) error {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	args := append(append([]string(nil), words...), "--socket", l.Socket(node))
	out, err := exec.CommandContext(ctx, l.state.Program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("colod %s at node %s: %w: %s", strings.Join(words, " "), node, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (t *torture) operate(ctx context.Context, s Step, before *Status, sr *StepReport) (string, error) {
	var err error
	said := s.What
	switch s.What {
	case opPause:
		if err = t.lab.Operate(ctx, before.Speaker, "vm", "stop", pairName); err == nil {
			sleep(ctx, s.For)
			if st, serr := t.lab.Status(ctx); serr == nil && st.Speaker != before.Speaker {
				return said, fmt.Errorf("a paused guest was taken for a dead one: %s speaks: %s", st.Speaker, st.Reason)
			}
			err = t.lab.Operate(ctx, before.Speaker, "vm", "cont", pairName)
		}
	case opMigrate:
		to := t.victim(roleSpare, before)
		said += " to " + to
		err = t.lab.Operate(ctx, before.Speaker, "migrate", pairName, "--to", to)
	default:
		err = t.lab.Operate(ctx, before.Speaker, s.What, pairName)
	}
	if err != nil && s.Away != "" {
		sr.Note, err = "refused while the arbiter was away: "+err.Error(), nil
	}
	return said, err
}

// finish ends the lasting connections in order and waits for protection.
func (t *torture) finish(ctx context.Context) {
	if err := t.await(ctx, "protected", protectLimit); err != nil {
		t.fail("not protected at the end: %v", err)
	} else {
		t.report.Protected = true
	}
	reports, err := t.session.Stop()
	if err != nil {
		t.fail("end of the lasting connections: %v", err)
		return
	}
	t.report.Clients = reports
	for _, broken := range t.count(reports) {
		t.fail("client %s", broken)
	}
	for _, r := range reports {
		if !r.Done && r.Error == "" {
			t.fail("client %s did not end in order", r.Name)
		}
	}
}

// judge adds the verdicts of the witness and of the daemons' usage.
func (t *torture) judge() {
	r := t.report
	for _, c := range r.Witness.Listed {
		t.fail("two speakers: %+v", c)
	}
	if r.Witness.Conflicts > 0 && len(r.Witness.Listed) == 0 {
		t.fail("two speakers: %d conflicts", r.Witness.Conflicts)
	}
	if r.Witness.Dropped > 0 {
		t.say(fmt.Sprintf("the witness missed %d frames", r.Witness.Dropped))
	}
	r.Usage = t.usage.Summary()
	for node, u := range r.Usage {
		for _, g := range u.Growth {
			t.fail("colod of node %s grows: %s", node, g)
		}
	}
}

// SaveLogs copies the logs and consoles of the lab's nodes to a directory.
func (l *Lab) SaveLogs(dir string) error {
	return filepath.WalkDir(l.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(path, ".log") && !strings.HasSuffix(path, ".yaml") && d.Name() != "log" {
			return nil // what vanished meanwhile is no loss
		}
		rel, _ := filepath.Rel(l.dir, path)
		to := filepath.Join(dir, rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return fmt.Errorf("save logs: %w", err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			return fmt.Errorf("save logs: %w", err)
		}
		return nil
	})
}
