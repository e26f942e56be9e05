package client

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// redis increments one key in pipelines and checks that every value comes once
// and in order.
func redis(ctx context.Context, l Load, m *meter) error {
	c, err := dial(ctx, l, 6379)
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	defer c.Close()
	m.update(func(r *Report) { r.Open = true })
	depth := int(l.Size)
	if depth == 0 {
		depth = 16
	}
	key := "colod:" + l.Name
	request := bytes.Repeat(fmt.Appendf(nil, "*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n", len(key), key), depth)
	in := bufio.NewReader(c)
	next := int64(0)
	return rounds(ctx, l, m, func(int) (int64, error) {
		m.waiting()
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(request); err != nil {
			return 0, err
		}
		got := int64(0)
		for i := range depth {
			line, err := in.ReadString('\n')
			if err != nil {
				return got, err
			}
			m.heard(i+1 < depth)
			got += int64(len(line))
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(line, ":")), 10, 64)
			if err != nil {
				return got, fmt.Errorf("answer %q: %w", line, err)
			}
			if next == 0 {
				next = n // the key may be there from an earlier client
			}
			m.update(func(r *Report) {
				if n > next {
					r.Lost += n - next
				} else if n < next {
					r.Repeated += next - n
				}
				r.Last = strconv.FormatInt(n, 10)
			})
			next = n + 1
		}
		return got, nil
	})
}
