// Package e2e holds colod's end-to-end tests: real QEMU pairs, real daemons in
// network namespaces, real clients, and faults at random instants. They need
// root and what 'make setup' installs.
//
// By default each campaign runs a few rounds; with COLOD_LONG=1 ('make
// test-long') it runs in full and prints its figures.
package e2e
