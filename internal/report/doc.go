// Package report keeps and explains divergences: which bytes of which connection differed between the two guests of a
// pair, why, what it cost, and what can be done about it.
//
// A Collector takes divergences from the data path without ever blocking it, joins each with the checkpoint that
// it caused, lets Classify name the cause, and writes Reports into a Store: segments of checksummed records, bounded by
// bytes and by age. Readers (the command line, the web page) take Reports from a Store and render them: as text, as
// JSON by docs/report-schema.json, as one HTML file that needs nothing else, as a pcapng capture.
//
// Payload is not trusted: whatever stands in it, no format lets it become markup, terminal control or another
// record. It can be left out or redacted before anything is written.
package report
