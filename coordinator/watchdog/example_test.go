package watchdog_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"colod/coordinator/watchdog"
)

// A server that has stopped answering is restarted, and somebody is told if that
// does not help.
func Example() {
	var up atomic.Bool // stands for the server
	answers := make(chan string, 10)
	w := watchdog.Start(watchdog.Options{
		Told: func(e watchdog.Effect) {
			if c, ok := e.(watchdog.Changed); ok {
				answers <- fmt.Sprintf("%s is %s", c.Part, c.To)
			}
		},
	})
	defer w.Close()
	_, err := w.Add(watchdog.Spec{
		Part: watchdog.Part{
			Name: "server", Every: time.Millisecond, Limit: 10 * time.Second, FailAfter: 2,
			Steps: []watchdog.Step{
				{Action: "restart", Times: 3, Wait: time.Millisecond, MaxWait: time.Second},
				{Action: "page somebody", Free: true},
			},
		},
		Check: func(context.Context) error {
			if !up.Load() {
				return errors.New("connection refused")
			}
			return nil
		},
		Actions: map[string]func(context.Context, watchdog.Do) error{
			"restart":       func(context.Context, watchdog.Do) error { up.Store(true); return nil },
			"page somebody": func(context.Context, watchdog.Do) error { return nil },
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		fmt.Println(<-answers)
	}
	// Output:
	// server is suspect
	// server is failed
	// server is ok
}
