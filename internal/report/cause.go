package report

// Kinds of cause. They are part of the schema.
const (
	KindHTTPDate      = "http-date"
	KindHTTPCookie    = "http-cookie"
	KindHTTPHeader    = "http-header"
	KindSession       = "session-id"
	KindTLSHello      = "tls-hello"
	KindTLSRecord     = "tls-record"
	KindSSHKex        = "ssh-kex"
	KindSSHPacket     = "ssh-packet"
	KindDNSID         = "dns-id"
	KindDNSData       = "dns-data"
	KindTCPTimestamp  = "tcp-timestamp"
	KindTCPISN        = "tcp-isn"
	KindTCPOptions    = "tcp-options"
	KindEphemeralPort = "ephemeral-port"
	KindJSONField     = "json-field"
	KindCounter       = "counter"
	KindClock         = "clock"
	KindPlainData     = "plain-data"
	KindUnknownData   = "unknown-data"
	KindLength        = "length"
	KindClose         = "close"
	KindLag           = "secondary-lags"
	KindAhead         = "primary-silent"
	KindHeader        = "packet-header"
	KindProtocol      = "protocol"
	KindQueue         = "queue"
	KindLost          = "lost"
	KindManual        = "manual"
	KindTimer         = "timer"
)

// advice says what an operator can do about each kind.
var advice = map[string]struct{ title, advice string }{
	KindHTTPDate: {"HTTP Date header",
		"The two guests answered in different seconds. A tolerance with header: Date for this port removes it; the client gets the primary's date."},
	KindHTTPCookie: {"cookie of an HTTP response",
		"Each guest drew its own random cookie. Keep sessions in a shared service, derive the cookie from the request, or sign instead of drawing. A tolerance only hides it: the secondary does not know the primary's session."},
	KindHTTPHeader: {"HTTP response header",
		"Request identifiers, times and the like: switch the header off in the server, or tolerate it by name if no client acts on it."},
	KindSession: {"session identifier or token",
		"A random value drawn by each guest by itself. Take it from a shared service or from the client. A tolerance only hides it: the secondary does not know the primary's value."},
	KindTLSHello: {"TLS handshake",
		"Randoms and key shares are drawn by each guest, so that each full handshake costs a checkpoint. End TLS in front of the pair, or keep connections open for long."},
	KindTLSRecord: {"TLS records",
		"Either the guests use different keys, since the handshake was made while they differed, or something within the encrypted content differs, such as the time in a session ticket or what the service answers. End TLS in front of the pair to see it."},
	KindSSHKex: {"ssh key exchange",
		"Cookies and keys are drawn by each guest: each ssh login costs a few checkpoints. Use long-lived or shared connections (ControlMaster)."},
	KindSSHPacket: {"encrypted ssh packet",
		"Padding or the order of output differs. A checkpoint heals it; nothing is to be done unless it is frequent."},
	KindDNSID: {"DNS transaction id",
		"Resolvers draw their ids. Let the guest ask a local resolver outside of the pair, or cache names in the guest."},
	KindDNSData: {"content of a DNS message",
		"Order of records, or different answers. Look at the bytes."},
	KindTCPTimestamp: {"TCP timestamp inside of another packet",
		"A tunnel in the guest carries TCP that cannot be translated. End the tunnel outside of the guest."},
	KindTCPISN: {"TCP sequence number inside of another packet",
		"A tunnel in the guest carries TCP that cannot be translated. End the tunnel outside of the guest."},
	KindTCPOptions: {"options of a SYN",
		"The guests' network settings differ: MTU, window scale or timestamps. They should be copies; look at what changed one of them."},
	KindEphemeralPort: {"ephemeral port",
		"The guest opens a connection and each copy chose another local port. Bind the client to a port, keep the connection open, or use a proxy outside of the guest."},
	KindJSONField: {"field of a JSON document",
		"Identifiers, times or the order of threads. If no client acts on the value, a tolerance with a pattern for this field removes it."},
	KindCounter: {"counter",
		"The guests have counted differently: threads ran in another order, or something counts time or packets. A tolerance with a pattern hides it if nothing follows from the value."},
	KindClock: {"time of day in the data",
		"The guests wrote down different times. A tolerance with a pattern of equal length removes it."},
	KindPlainData: {"data",
		"The bytes show no known pattern. Look at them; if they follow from random numbers or from the order of threads, each such answer costs a checkpoint."},
	KindUnknownData: {"data, bytes not known",
		"The secondary's bytes were not there in time, so that only the range is known."},
	KindLength: {"length of a stream or datagram",
		"One guest said more than the other. Numbers of different length, buffering, or compression do that."},
	KindClose: {"end of a connection",
		"One guest closed, reset or refused a connection and the other did not: a time-out or a limit that the two reached at different moments."},
	KindLag: {"the secondary lags",
		"The secondary did not say the same in time. Look at the load of its host and the link; a larger hold.min waits longer before a checkpoint is taken."},
	KindAhead: {"the primary is silent",
		"The secondary said what the primary did not within a second. Look at the load of the primary's host; timers in the guest do it too."},
	KindHeader: {"header of a packet",
		"Fields that the guest sets differ: TTL, type of service, fragmentation or ICMP type."},
	KindProtocol: {"the nodes' conversation",
		"The other node's messages contradict each other. Both nodes should run the same version; report this."},
	KindQueue: {"a limit was reached",
		"Too many frames, flows or bytes waited. More CPU for colod, or a faster secondary."},
	KindLost: {"frames were lost",
		"The kernel dropped frames before they could be compared, or the link was full. More CPU for colod, or a faster link."},
	KindManual: {"asked for", "An operator asked for a checkpoint."},
	KindTimer:  {"timer", "A periodic checkpoint: checkpoint.idle_interval."},
}

// Kinds are all kinds of cause.
func Kinds() []string {
	return []string{KindHTTPDate, KindHTTPCookie, KindHTTPHeader, KindSession, KindTLSHello, KindTLSRecord, KindSSHKex, KindSSHPacket,
		KindDNSID, KindDNSData, KindTCPTimestamp, KindTCPISN, KindTCPOptions, KindEphemeralPort, KindJSONField, KindCounter, KindClock,
		KindPlainData, KindUnknownData, KindLength, KindClose, KindLag, KindAhead, KindHeader, KindProtocol, KindQueue, KindLost,
		KindManual, KindTimer}
}

// cause makes the cause of a kind.
func cause(kind, field string, sure bool) Cause {
	a := advice[kind]
	return Cause{Kind: kind, Title: a.title, Field: Clean(field, maxField), Advice: a.advice, Sure: sure}
}
