package netfilter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// Clean removes, in the calling thread's network namespace, what ended processes of an owner have left: the paths of
// their journals in dir (empty means DefaultDir), and devices with the owner's mark that no journal tells of. It returns
// what it removed, in words. Paths which a running process holds are left, with an ErrBusy that names it.
func Clean(dir, owner string) ([]string, error) {
	if dir == "" {
		dir = DefaultDir
	}
	ns, err := namespaceID()
	if err != nil {
		return nil, &Error{Op: "clean paths of", Device: owner, Err: err}
	}
	var removed []string
	var errs []error
	prefix := journalBase(ns, "")
	files, err := filepath.Glob(filepath.Join(dir, prefix+"*.lock"))
	if err != nil {
		return nil, &Error{Op: "clean paths of", Device: owner, Err: err}
	}
	for _, f := range files {
		tap := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), prefix), ".lock")
		did, err := cleanPath(dir, tap, owner)
		if did {
			removed = append(removed, "path of tap "+tap)
		}
		errs = append(errs, err)
	}
	os.Remove(dir) // fails, as it should, unless it is empty
	if err := errors.Join(errs...); err != nil {
		return removed, err // the marked devices can be those of a path that is in use
	}
	devices, err := sweep(owner)
	return append(removed, devices...), err
}

// cleanPath undoes one journal, if it is the owner's.
func cleanPath(dir, tap, owner string) (bool, error) {
	p, err := newPath(Config{Tap: tap, Owner: owner, Dir: dir})
	if err != nil {
		return false, err
	}
	// A process that was killed before it could write its name has changed nothing: its lock is nobody's.
	began := p.record.head != header{}
	if began && p.record.head.Owner != owner {
		p.release()
		return false, nil
	}
	err = p.undo()
	return began && err == nil, err
}

// sweep removes devices that are marked as the owner's.
func sweep(owner string) ([]string, error) {
	l, err := openLinks()
	if err != nil {
		return nil, err
	}
	defer l.close()
	r, err := openRules()
	if err != nil {
		return nil, err
	}
	defer r.close()
	list, err := l.list()
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, link := range list {
		a := link.Attrs()
		switch a.Alias {
		case madeAlias(owner):
			did, err := l.delete(a.Name, owner)
			if did {
				removed = append(removed, "device "+a.Name)
			}
			errs = append(errs, err)
		case adoptedAlias(owner):
			errs = append(errs, r.dropClsact(hook{device: a.Name, index: uint32(a.Index)}),
				set("unmark", a.Name, l.nl.LinkSetAlias(link, "")))
			removed = append(removed, "filters of "+a.Name)
		}
	}
	return removed, errors.Join(errs...)
}

// list returns all devices.
func (l *links) list() ([]netlink.Link, error) {
	for {
		list, err := l.nl.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list devices: %w", err)
		}
		return list, nil
	}
}
