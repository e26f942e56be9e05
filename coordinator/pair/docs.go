package pair

import (
	"fmt"
	"strings"
)

//go:generate go test -run TestStatesDocument -update .

// meanings say of each state when a pair's node is in it; they stand in the
// operators' document.
var meanings = []struct {
	state State
	text  string
}{
	{Idle, "nothing is decided yet: at the start of colod, or while the other node takes over from the VM that died here"},
	{Standby, "the other node speaks, or is to; this one is ready to run the secondary"},
	{Syncing, "the guest is being copied to the secondary; it is not protected yet"},
	{Protected, "both guests run in lock-step; the loss of either side is survived"},
	{Checkpointing, "as protected; the secondary is just being made a copy of the primary again"},
	{Claiming, "the other side is lost, and this node is writing the record to speak alone"},
	{Promoting, "the record names this node alone; its VM and the data path are being made ready"},
	{Solo, "the guest runs here and is not protected"},
	{Stopped, "the guest was ended on purpose, or cannot be kept running; no node runs it"},
	{Fenced, "the record names the other node although a VM runs here; it is being ended"},
	{Switching, "a planned exchange of roles: the guest here stands still until the other node has taken over, or it goes on here"},
}

// StatesDocument is the content of docs/pair-states.md.
func StatesDocument() string {
	var b strings.Builder
	b.WriteString(`# States of a pair

Each node has its own state for each of its pairs; ` + "`colod status`" + ` shows it with the reason. The tables are
made from the code (` + "`go generate ./coordinator/pair`" + `), and a test keeps them equal. The stories in
` + "`coordinator/pair/testdata/scenarios`" + ` show what happens step by step.

| state | meaning |
|---|---|
`)
	for _, m := range meanings {
		fmt.Fprintf(&b, "| %s | %s |\n", m.state, m.text)
	}
	b.WriteString(`
A node lets the guest's output out alone only in the states promoting and solo, and while syncing as the speaker:
then the record names it as speaker and no standby. In protected, checkpointing and switching the speaker releases
what both guests agree on or a completed checkpoint covers. The one exception is ` + "`colod failover --force`" + `: an operator
makes a node speak while the arbiter does not answer; the record is written as soon as it does.

| from | to | when |
|---|---|---|
`)
	for _, t := range Transitions {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", t.From, t.To, t.When)
	}
	b.WriteString(`
What an operator can wish for, and what becomes of it when something breaks in the middle. A wish may be given on
any node of the pair; it is passed on to the speaker, whose answer comes back.

| wish | what happens | a fault in the middle |
|---|---|---|
`)
	for _, w := range wishes {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", w.op, w.text, w.fault)
	}
	return b.String()
}

// wishes say of each operation what it does, and what a fault in it leads to.
var wishes = []struct {
	op          Op
	text, fault string
}{
	{OpProtect, "a secondary is chosen and the guest is copied to it", "the guest goes on alone; another node is tried first, ever more rarely"},
	{OpCheckpoint, "the secondary is made a copy of the primary", "the other side counts as lost: see claiming"},
	{OpFailover, "the other node says that it can take over; then the speaker's VM is ended at once, and the other node takes over", "before the VM is ended: it is refused, and the guest stays protected where it is. After that the guest is where the record says; without the arbiter it waits for it"},
	{OpSwitchover, "both nodes look whether they reach the arbiter; a checkpoint; the guest stands still; the other node wins the record and speaks; the old VM is ended and becomes the secondary",
		"before the guest stands still: it stays protected where it is. After that: if the other node does not win the record in time (5 s), or is lost, this one does, and the guest goes on here; if its VM dies before it was heard, it gives the record back"},
	{OpMigrate, "to the secondary: a switchover. To a third node: it is looked whether it fits, the record is written without the present secondary, the guest is copied to the new one; with --role speaker a switchover follows",
		"until the record is written the guest stays protected by the present secondary. After that it goes on alone, and is protected again by whichever node is ready, the failed one last"},
	{OpPause, "the guest stands still; no checkpoint is taken meanwhile", "a node that takes over stops it again; if colod of a speaker that is protected, or has gone on alone in a switchover, is started again, it goes on"},
	{OpCont, "it goes on; a checkpoint puts both guests together", "as without it"},
	{OpReboot, "the guest is reset within its VM; a checkpoint follows", "as without it: the other node has the guest of before or after the reset"},
	{OpStop, "the guest is ended, with a grace period in which it may shut itself down; the record says so", "the end is recorded once the guest cannot be heard; the record decides"},
	{OpDelete, "the same, and what is kept of the guest is removed; a start needs --create then", "it is tried again until the record says so"},
	{OpStart, "a guest that was ended, or whose start maintenance holds back, is started on this node; one that another node has released, with --force only, as it may run there", "the record decides"},
	{OpMaintenance, "what happens by itself is held back: a takeover by the secondary, a start, protection. A speaker that loses its secondary still goes on alone. Ends with maintenance off; then what was held back is done", "all nodes of the pair know of it, and keep it over a restart of colod; a node that was away learns of it when it is back"},
	{OpForce, "a node that cannot win the record, as the arbiter does not answer, speaks all the same", "if the record names another node once it can be read, the guest here is ended"},
}
