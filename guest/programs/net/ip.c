/* SPDX-License-Identifier: MIT */
/* Ethernet, ARP (RFC 826) and IPv4 (RFC 791) without options and fragments. */
#include "net.h"

#define ARP_REQUEST 1
#define ARP_REPLY 2
#define NEIGHBOURS 8
#define HOPS 64
#define MORE_FRAGMENTS_OR_OFFSET 0x3fff

struct arp {
	n16 medium, kind;
	uint8_t mac_size, address_size;
	n16 operation;
	uint8_t from_mac[MAC_SIZE];
	n32 from;
	uint8_t to_mac[MAC_SIZE];
	n32 to;
} __attribute__((packed));

const uint8_t broadcast[MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static struct peer neighbours[NEIGHBOURS];
static unsigned int next_neighbour;
static uint64_t asked_at;
static n32 asked_for;
static bool conflict_is_told;
static uint16_t identification;

static void put_ethernet(const struct slot *slot, const uint8_t *to, uint16_t kind)
{
	struct ethernet ethernet = {.kind = swap16(kind)};

	copy(ethernet.to, to, MAC_SIZE);
	copy(ethernet.from, host.card.mac, MAC_SIZE);
	copy(slot->bytes, &ethernet, sizeof(ethernet));
}

static void send_arp(uint16_t operation, const uint8_t *to_mac, n32 to)
{
	struct arp arp = {
		.medium = swap16(1),
		.kind = swap16(KIND_IPV4),
		.mac_size = MAC_SIZE,
		.address_size = 4,
		.operation = swap16(operation),
		.from = host.address,
		.to = to,
	};
	struct slot slot;

	if (!card_slot(&slot))
		return;
	put_ethernet(&slot, to_mac, KIND_ARP);
	copy(arp.from_mac, host.card.mac, MAC_SIZE);
	if (operation == ARP_REPLY)
		copy(arp.to_mac, to_mac, MAC_SIZE);
	copy(slot.bytes + ETHERNET_SIZE, &arp, sizeof(arp));
	card_send(&slot, ETHERNET_SIZE + sizeof(arp), 0, 0);
}

void announce(void)
{
	send_arp(ARP_REQUEST, broadcast, host.address);
}

static struct peer *neighbour(n32 address)
{
	for (unsigned int i = 0; i < NEIGHBOURS; i++)
		if (neighbours[i].address == address)
			return &neighbours[i];
	return NULL;
}

static void learn(const struct arp *arp)
{
	struct peer *known = neighbour(arp->from);

	if (!known) {
		/* Only who wants something of us, or was asked for. */
		if (arp->to != host.address)
			return;
		known = &neighbours[next_neighbour++ % NEIGHBOURS];
	}
	known->address = arp->from;
	copy(known->mac, arp->from_mac, MAC_SIZE);
}

static void tell_conflict(const struct arp *arp)
{
	const uint8_t *mac = arp->from_mac;

	if (conflict_is_told)
		return;
	conflict_is_told = true;
	print("%u.%u.%u.%u is also at %02x:%02x:%02x:%02x:%02x:%02x\n", ADDRESS(host.address), mac[0],
	      mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static void arp_arrived(const struct frame *frame)
{
	struct arp arp;

	if (frame->length < ETHERNET_SIZE + sizeof(arp))
		return;
	frame_copy(&arp, frame, ETHERNET_SIZE, sizeof(arp));
	if (arp.medium != swap16(1) || arp.kind != swap16(KIND_IPV4) || arp.mac_size != MAC_SIZE ||
	    arp.address_size != 4 || !host.address)
		return;
	if (arp.from == host.address) {
		if (!is_same(arp.from_mac, host.card.mac, MAC_SIZE))
			tell_conflict(&arp);
		return;
	}
	if (arp.from)
		learn(&arp);
	if (arp.operation == swap16(ARP_REQUEST) && arp.to == host.address)
		send_arp(ARP_REPLY, arp.from_mac, arp.from);
}

bool find_peer(n32 address, struct peer *peer)
{
	n32 near = (address ^ host.address) & host.mask ? host.gateway : address;
	struct peer *known = neighbour(near);

	if (known && near) {
		*peer = *known;
		peer->address = address;
		return true;
	}
	if (near && (asked_for != near || now() - asked_at >= TICKS_PER_SECOND / 2)) {
		asked_for = near;
		asked_at = now();
		send_arp(ARP_REQUEST, broadcast, near);
	}
	return false;
}

bool begin_packet(struct slot *slot, const struct peer *peer, uint8_t protocol, uint32_t length,
		  volatile uint8_t **payload)
{
	struct ipv4 ip = {
		.version_words = 0x45,
		.length = swap16((uint16_t)(sizeof(ip) + length)),
		.identification = swap16(identification++),
		.hops = HOPS,
		.protocol = protocol,
		.from = host.address,
		.to = peer->address,
	};

	if (!card_slot(slot))
		return false;
	ip.checksum = sum_end(sum_bytes(&ip, sizeof(ip)));
	put_ethernet(slot, peer->mac, KIND_IPV4);
	copy(slot->bytes + ETHERNET_SIZE, &ip, sizeof(ip));
	*payload = slot->bytes + IP_START;
	return true;
}

/* The header is right, and says that the packet is for this host. */
static bool take_header(struct packet *packet)
{
	const struct frame *frame = packet->frame;
	uint32_t header, length;

	if (frame->length < IP_START)
		return false;
	frame_copy(&packet->ip, frame, ETHERNET_SIZE, sizeof(packet->ip));
	header = 4u * (packet->ip.version_words & 15);
	length = swap16(packet->ip.length);
	if (packet->ip.version_words >> 4 != 4 || header < sizeof(packet->ip) || length < header ||
	    length > frame->length - ETHERNET_SIZE ||
	    swap16(packet->ip.fragment) & MORE_FRAGMENTS_OR_OFFSET ||
	    sum_end(sum_frame(frame, ETHERNET_SIZE, header)))
		return false;
	packet->start = ETHERNET_SIZE + header;
	packet->length = length - header;
	/* Who has no address yet is told one by what is sent to it anyway. */
	return !host.address || packet->ip.to == host.address;
}

/* What the device or its wire has checked, or has not worked out yet, need not be looked at. */
static bool is_checked(const struct packet *packet)
{
	return packet->frame->header.flags & (NET_NEEDS_CHECKSUM | NET_DATA_VALID);
}

static bool is_right(const struct packet *packet)
{
	return !sum_end(sum_addresses(packet->ip.from, packet->ip.to, packet->ip.protocol,
				      packet->length) +
			sum_frame(packet->frame, packet->start, packet->length));
}

static void ip_arrived(struct packet *packet)
{
	if (!take_header(packet))
		return;
	switch (packet->ip.protocol) {
	case PROTOCOL_ICMP:
		icmp_arrived(packet);
		break;
	case PROTOCOL_TCP:
		if (is_checked(packet) || is_right(packet))
			tcp_arrived(packet);
		break;
	case PROTOCOL_UDP:
		udp_arrived(packet);
		break;
	default:
		break;
	}
}

void frame_arrived(const struct frame *frame)
{
	struct packet packet = {.frame = frame};

	frame_copy(&packet.ethernet, frame, 0, sizeof(packet.ethernet));
	if (!is_same(packet.ethernet.to, host.card.mac, MAC_SIZE) &&
	    !is_same(packet.ethernet.to, broadcast, MAC_SIZE))
		return;
	if (packet.ethernet.kind == swap16(KIND_ARP))
		arp_arrived(frame);
	else if (packet.ethernet.kind == swap16(KIND_IPV4))
		ip_arrived(&packet);
}
