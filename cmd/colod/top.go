package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"colod/coordinator"
)

func (c *cli) topCommand() *cobra.Command {
	var every time.Duration
	var once bool
	cmd := &cobra.Command{
		Use:   "top [PAIR]",
		Short: "Watch this node's pairs live in the terminal",
		Long: `Top shows this node's pairs as they are now: state, what is released, how long
it waits, how long the guest stands still for checkpoints, why the two guests
diverge, and what goes over the link. Keys: up and down select a pair, q quits.`,
		Example: `  colod top
  colod top guest1 --interval 500ms
  colod top --once`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if every < 100*time.Millisecond {
				return usageError(errors.New("--interval must be at least 100ms"))
			}
			if c.json {
				return usageError(errors.New("top is for people; programs use colod status --json --watch"))
			}
			ctx := cmd.Context()
			src := &topSource{client: c.client(), last: map[string]uint64{}}
			m := topModel{screen: screen{width: 80, height: 24, unicode: unicodeTerminal(), color: c.terminal() && os.Getenv("NO_COLOR") == ""}, every: every}
			if len(args) == 1 {
				m.want = args[0]
			}
			first := src.look(ctx)
			if first.err != nil {
				return reached(first.err)
			}
			m.take(first)
			if m.want != "" && !m.has(m.want) {
				return errors.New("node " + first.status.Node + " has no pair " + m.want)
			}
			if once {
				m.height = 0 // as long as it takes
				_, err := c.out.Write([]byte(m.render(time.Now())))
				return err
			}
			if !c.terminal() || !isatty.IsTerminal(os.Stdin.Fd()) {
				return usageError(errors.New("top needs a terminal; for a script there are colod top --once and colod status --json"))
			}
			m.look = func() topLook { return src.look(ctx) }
			p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithOutput(c.out), tea.WithoutSignalHandler())
			_, err := p.Run()
			if ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
				return nil // interrupted: that is how it ends
			}
			return err
		},
	}
	c.socketFlag(cmd)
	cmd.Flags().DurationVar(&every, "interval", time.Second, "time between two looks")
	cmd.Flags().BoolVar(&once, "once", false, "show it once, as plain lines")
	return cmd
}

// unicodeTerminal reports whether the locale says that the terminal shows
// more than ASCII.
func unicodeTerminal() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := os.Getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// topLook is what one look at the daemon brought.
type topLook struct {
	status *coordinator.NodeStatus
	series map[string][]coordinator.Point // new points by pair
	causes map[string]map[string]uint64   // of divergences, as the reports name them, by pair
	err    error
}

// topSource asks the daemon, and remembers which points it has. One look at a time.
type topSource struct {
	client *coordinator.Client

	mu   sync.Mutex
	last map[string]uint64
}

func (s *topSource) look(ctx context.Context) topLook {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := s.client.Status(ctx)
	if err != nil {
		clear(s.last) // it may come back as another one
		return topLook{err: err}
	}
	l := topLook{status: st, series: map[string][]coordinator.Point{}, causes: map[string]map[string]uint64{}}
	for _, p := range st.Pairs {
		if r, err := s.client.ReportStats(ctx, p.Pair); err == nil {
			l.causes[p.Pair] = r.Reports.ByCause
		}
		a, err := s.client.Series(ctx, p.Pair, s.last[p.Pair])
		if err != nil {
			continue // the pair is new, or goes just now; the next look tells
		}
		if n := len(a.Points); n > 0 {
			s.last[p.Pair] = a.Points[n-1].ID
			l.series[p.Pair] = a.Points
		}
	}
	return l
}

// topModel is the view's state, for bubbletea.
type topModel struct {
	screen
	look  func() topLook
	every time.Duration
	want  string // pair to be selected at first
}

type topTick struct{}

func (m topModel) Init() tea.Cmd { return m.tick() }

func (m topModel) tick() tea.Cmd {
	return tea.Tick(m.every, func(time.Time) tea.Msg { return topTick{} })
}

func (m topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "ctrl+c", "esc":
			return m, tea.Quit
		case "up", "k":
			m.move(-1)
		case "down", "j":
			m.move(1)
		}
	case topTick:
		look := m.look
		return m, func() tea.Msg { return look() }
	case topLook:
		m.take(msg)
		return m, m.tick()
	}
	return m, nil
}

func (m topModel) View() tea.View {
	v := tea.NewView(m.render(time.Now()))
	v.AltScreen = true
	v.WindowTitle = "colod top"
	return v
}
