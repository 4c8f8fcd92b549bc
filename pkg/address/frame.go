package address

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// What is put on the wire, and read from it, octet by octet.
const (
	etherSize = 14
	arpSize   = 28
	ip6Size   = 40

	arpRequest = 1
	arpReply   = 2

	icmp6          = 58
	icmp6Solicit   = 135
	icmp6Advertise = 136
	overrideFlag   = 1 << 29 // of an advertisement: replace what you have cached
	targetLinkAddr = 2       // option: the MAC of the target
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// arp is an ARP frame to everybody. A sender of 0.0.0.0 makes it a probe
// (RFC 5227), sender = target an announcement.
func arp(op uint16, mac net.HardwareAddr, sender, target netip.Addr) []byte {
	f := ether(broadcast, mac, 0x0806, arpSize)
	p := f[etherSize:]
	binary.BigEndian.PutUint16(p[0:], 1)      // Ethernet
	binary.BigEndian.PutUint16(p[2:], 0x0800) // IPv4
	p[4], p[5] = 6, 4
	binary.BigEndian.PutUint16(p[6:], op)
	copy(p[8:], mac)
	copy(p[14:], sender.AsSlice())
	if op == arpReply {
		copy(p[18:], broadcast)
	}
	copy(p[24:], target.AsSlice())
	return f
}

// arpSender is who an ARP frame says has the address, nil if it does not say
// that of this one.
func arpSender(frame []byte, of netip.Addr) net.HardwareAddr {
	if len(frame) < etherSize+arpSize || binary.BigEndian.Uint16(frame[12:]) != 0x0806 {
		return nil
	}
	p := frame[etherSize:]
	if p[4] != 6 || p[5] != 4 || netip.AddrFrom4([4]byte(p[14:18])) != of {
		return nil
	}
	return net.HardwareAddr(p[8:14])
}

// solicit asks who has an IPv6 address, as a machine without one (RFC 4862).
func solicit(mac net.HardwareAddr, target netip.Addr) []byte {
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	body := make([]byte, 24)
	body[0] = icmp6Solicit
	copy(body[8:], t[:])
	return neighbour(mac, netip.IPv6Unspecified(), group, body)
}

// advertise tells everybody that the address is here now.
func advertise(mac net.HardwareAddr, target netip.Addr) []byte {
	body := make([]byte, 32)
	body[0] = icmp6Advertise
	binary.BigEndian.PutUint32(body[4:], overrideFlag)
	copy(body[8:], target.AsSlice())
	body[24], body[25] = targetLinkAddr, 1
	copy(body[26:], mac)
	return neighbour(mac, target, netip.IPv6LinkLocalAllNodes(), body)
}

// neighbour wraps a message of neighbour discovery.
func neighbour(mac net.HardwareAddr, from, to netip.Addr, body []byte) []byte {
	dst := to.As16()
	f := ether(net.HardwareAddr{0x33, 0x33, dst[12], dst[13], dst[14], dst[15]}, mac, 0x86dd, ip6Size+len(body))
	p := f[etherSize:]
	p[0] = 6 << 4
	binary.BigEndian.PutUint16(p[4:], uint16(len(body)))
	p[6], p[7] = icmp6, 255 // a hop limit below 255 would have been routed, and is ignored
	copy(p[8:], from.AsSlice())
	copy(p[24:], to.AsSlice())
	copy(p[ip6Size:], body)
	binary.BigEndian.PutUint16(p[ip6Size+2:], checksum(p))
	return f
}

// advertiser is who a frame says has the IPv6 address, nil if it does not.
func advertiser(frame []byte, of netip.Addr) net.HardwareAddr {
	if len(frame) < etherSize+ip6Size+24 || binary.BigEndian.Uint16(frame[12:]) != 0x86dd {
		return nil
	}
	p := frame[etherSize:]
	body := p[ip6Size:]
	if p[6] != icmp6 || p[7] != 255 || body[0] != icmp6Advertise || netip.AddrFrom16([16]byte(body[8:24])) != of {
		return nil
	}
	if len(body) >= 32 && body[24] == targetLinkAddr {
		return net.HardwareAddr(body[26:32])
	}
	return net.HardwareAddr(frame[6:12])
}

func ether(to, from net.HardwareAddr, kind uint16, size int) []byte {
	f := make([]byte, etherSize+size)
	copy(f, to)
	copy(f[6:], from)
	binary.BigEndian.PutUint16(f[12:], kind)
	return f
}

// checksum of the ICMPv6 message in an IPv6 packet whose checksum field is 0:
// over the addresses, the length, the protocol and the message.
func checksum(packet []byte) uint16 {
	sum := uint32(len(packet)-ip6Size) + icmp6
	for b := packet[8:]; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
