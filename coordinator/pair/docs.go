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
then the record names it as speaker and no standby. In protected and checkpointing the speaker releases what both
guests agree on or a completed checkpoint covers.

| from | to | when |
|---|---|---|
`)
	for _, t := range Transitions {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", t.From, t.To, t.When)
	}
	return b.String()
}
