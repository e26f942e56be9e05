package report

// service is the name of a well-known port (IANA service name registry), "" when it has none here.
func service(kind string, port uint16) string {
	if kind == "udp" {
		switch port {
		case 53:
			return "dns"
		case 67, 68:
			return "dhcp"
		case 69:
			return "tftp"
		case 123:
			return "ntp"
		case 161, 162:
			return "snmp"
		case 443:
			return "quic"
		case 514:
			return "syslog"
		case 546, 547:
			return "dhcpv6"
		case 1900:
			return "ssdp"
		case 4789:
			return "vxlan"
		case 5353:
			return "mdns"
		case 51820:
			return "wireguard"
		}
		return ""
	}
	switch port {
	case 20, 21:
		return "ftp"
	case 22:
		return "ssh"
	case 23:
		return "telnet"
	case 25, 587:
		return "smtp"
	case 53:
		return "dns"
	case 80, 8000, 8080:
		return "http"
	case 110:
		return "pop3"
	case 143:
		return "imap"
	case 389:
		return "ldap"
	case 443, 8443:
		return "https"
	case 445:
		return "smb"
	case 465:
		return "smtps"
	case 514:
		return "syslog"
	case 636:
		return "ldaps"
	case 853:
		return "dns-tls"
	case 993:
		return "imaps"
	case 995:
		return "pop3s"
	case 1883:
		return "mqtt"
	case 2049:
		return "nfs"
	case 2379, 2380:
		return "etcd"
	case 3260:
		return "iscsi"
	case 3306:
		return "mysql"
	case 3389:
		return "rdp"
	case 5432:
		return "postgresql"
	case 5672:
		return "amqp"
	case 6379:
		return "redis"
	case 7:
		return "echo"
	case 9090:
		return "prometheus"
	case 9092:
		return "kafka"
	case 9200:
		return "elasticsearch"
	case 11211:
		return "memcached"
	case 27017:
		return "mongodb"
	}
	return ""
}
