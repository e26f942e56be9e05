// Package watchdog supervises the parts of a program: it finds out which of
// them no longer work, tells so, and acts on it, within limits.
//
// A part is watched in one of two ways. A checked one has a function that is
// called again and again and has to return without an error within a limit; a
// check that hangs counts as failed, and is not called again until it has
// returned. A pushed one has to call [Handle.Beat] within its limit.
//
// A part is ok, suspect after some bad results in a row, and failed after more
// of them. While it is failed its steps are taken, one after the other: each
// names an action, how often it may be tried, and the growing pauses in between.
// What an action does is up to the program: restart the part, tell somebody,
// fail over. Actions are also counted over all parts together: when they become
// a storm, they are held back until it has passed, which is told as well.
//
// What is decided when is in [Core], which is pure: it is given results and
// times, and returns what to do. [Watchdog] runs it.
package watchdog
