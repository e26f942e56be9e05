package disk

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Changes are recorded in bitmaps of the quorum node, which live in QEMU's memory: one that records, and
// the one before it. They begin when the two images are equal, and are renewed from time to time while the
// pair is protected, so that they stay small. The older one is kept for one interval more: a write that has
// reached the image here and not yet the other one when the newer one began is in the older.
//
// A name is "colod.SESSION.NUMBER". granularity is QEMU's default for large clusters.
const granularity = 64 << 10

const bitmapPrefix = "colod."

const mergedBitmap = "colod-merged"

func bitmapName(session string, n uint64) string {
	return bitmapPrefix + session + "." + strconv.FormatUint(n, 10)
}

// parseBitmap is the reverse of bitmapName.
func parseBitmap(name string) (session string, n uint64, ok bool) {
	rest, ok := strings.CutPrefix(name, bitmapPrefix)
	if !ok {
		return "", 0, false
	}
	i := strings.LastIndexByte(rest, '.')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(rest[i+1:], 10, 64)
	return rest[:i], n, err == nil
}

// bitmapsOf returns the numbers of a session's bitmaps on a node, and the names of all of ours.
func bitmapsOf(n blockNode, session string) (numbers []uint64, all []string) {
	for _, b := range n.Bitmaps {
		s, num, ok := parseBitmap(b.Name)
		if !ok {
			continue
		}
		all = append(all, b.Name)
		if s == session {
			numbers = append(numbers, num)
		}
	}
	slices.Sort(numbers)
	return numbers, all
}

// Knows reports whether this QEMU has recorded everything that was written to every replicated disk since
// the copies of that session were equal.
func (l *Layout) Knows(ctx context.Context, q QMP, session string) (bool, error) {
	if session == "" || !l.Replicates() {
		return false, nil
	}
	ns, err := nodes(ctx, q)
	if err != nil {
		return false, fmt.Errorf("look for bitmaps: %w", err)
	}
	for _, i := range l.replicated() {
		if numbers, _ := bitmapsOf(ns[nodeDisk(i)], session); len(numbers) == 0 {
			return false, nil
		}
	}
	return true, nil
}

// Renew begins new bitmaps and forgets all but the last of the old ones. To be called now and then while
// the pair is protected.
func (l *Layout) Renew(ctx context.Context, q QMP, session string) error {
	ns, err := nodes(ctx, q)
	if err != nil {
		return fmt.Errorf("renew bitmaps: %w", err)
	}
	for _, i := range l.replicated() {
		numbers, _ := bitmapsOf(ns[nodeDisk(i)], session)
		if len(numbers) == 0 {
			continue
		}
		last := numbers[len(numbers)-1]
		if err := addBitmap(ctx, q, nodeDisk(i), bitmapName(session, last+1), false); err != nil {
			return fmt.Errorf("renew bitmaps: %w", err)
		}
		for _, n := range numbers[:len(numbers)-1] {
			if err := removeBitmap(ctx, q, nodeDisk(i), bitmapName(session, n)); err != nil {
				return fmt.Errorf("renew bitmaps: %w", err)
			}
		}
	}
	return nil
}

// replaceBitmaps begins the first bitmap of a session and forgets those of others.
func (l *Layout) replaceBitmaps(ctx context.Context, q QMP, i int, session string) error {
	if err := addBitmap(ctx, q, nodeDisk(i), bitmapName(session, 1), false); err != nil {
		return err
	}
	ns, err := nodes(ctx, q)
	if err != nil {
		return err
	}
	_, all := bitmapsOf(ns[nodeDisk(i)], session)
	for _, name := range all {
		if name != bitmapName(session, 1) {
			if err := removeBitmap(ctx, q, nodeDisk(i), name); err != nil {
				return err
			}
		}
	}
	return removeBitmap(ctx, q, nodeBase(i), mergedBitmap)
}

// mergeBitmaps makes one bitmap on the image of what was recorded since a session.
func (l *Layout) mergeBitmaps(ctx context.Context, q QMP, i int, session string) (string, error) {
	ns, err := nodes(ctx, q)
	if err != nil {
		return "", err
	}
	numbers, _ := bitmapsOf(ns[nodeDisk(i)], session)
	if len(numbers) == 0 {
		return "", fmt.Errorf("no bitmap of session %s", session)
	}
	if err := removeBitmap(ctx, q, nodeBase(i), mergedBitmap); err != nil {
		return "", err
	}
	if err := addBitmap(ctx, q, nodeBase(i), mergedBitmap, true); err != nil {
		return "", err
	}
	var from []obj
	for _, n := range numbers {
		from = append(from, obj{"node": nodeDisk(i), "name": bitmapName(session, n)})
	}
	return mergedBitmap, q.Run(ctx, "block-dirty-bitmap-merge", obj{"node": nodeBase(i), "target": mergedBitmap, "bitmaps": from}, nil)
}

func addBitmap(ctx context.Context, q QMP, node, name string, disabled bool) error {
	return q.Run(ctx, "block-dirty-bitmap-add", obj{"node": node, "name": name, "granularity": granularity, "persistent": false, "disabled": disabled}, nil)
}

func removeBitmap(ctx context.Context, q QMP, node, name string) error {
	if err := q.Run(ctx, "block-dirty-bitmap-remove", obj{"node": node, "name": name}, nil); err != nil && !absent(err) && !said(err, "not found") {
		return err
	}
	return nil
}
