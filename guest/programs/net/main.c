/* SPDX-License-Identifier: MIT */
/*
 * A host on an IPv4 network, by a virtio network card, at ip=ADDRESS/BITS with gateway=ADDRESS, or where DHCP
 * says. It answers ARP and pings, and its ports 7 (echo), 9 (discard) and 19 (chargen), until UDP's port 7 is told
 * "end"; with ping=ADDRESS until its pings are over (serve=1: not then).
 */
#include "interrupts.h"
#include "net.h"

#define EXIT_NO_CARD 2
#define EXIT_NO_ANSWER 1
#define FRAMES_AT_ONCE 64
#define OFFLOADS (NET_CHECKSUM | NET_GUEST_CHECKSUM | NET_GUEST_TSO4 | NET_HOST_TSO4)

GUEST_NEEDS(NEED_INTERRUPTS);

struct host host;

uint64_t now(void)
{
	return timer_ticks();
}

/* "10.0.0.2", up to *end; false where it is no address. */
static bool parse_address(const char **text, const char *end, n32 *address)
{
	uint32_t value = 0;

	for (unsigned int i = 0; i < 4; i++) {
		unsigned int part = 0, digits = 0;

		if (i && (*text == end || *(*text)++ != '.'))
			return false;
		for (; *text < end && **text >= '0' && **text <= '9'; digits++, ++*text)
			part = part * 10 + (unsigned int)(**text - '0');
		if (!digits || digits > 3 || part > 255)
			return false;
		value = value << 8 | part;
	}
	*address = swap32(value);
	return true;
}

/* An address by option; 0 where there is none. `bits`: behind a slash the network's size follows. */
static n32 address_option(const char *key, unsigned int *bits)
{
	size_t size;
	const char *text = guest_text_option(key, &size), *end;
	n32 address;

	if (!text)
		return 0;
	end = text + size;
	if (!parse_address(&text, end, &address))
		panic("%s= takes an address, 10.0.0.2 say", key);
	if (!bits)
		return address;
	*bits = 24;
	if (text < end && *text == '/')
		for (*bits = 0, text++; text < end && *text >= '0' && *text <= '9'; text++)
			*bits = *bits * 10 + (unsigned int)(*text - '0');
	if (*bits > 32)
		panic("%s= takes a network of at most 32 bits", key);
	return address;
}

static void print_card(void)
{
	const uint8_t *mac = host.card.mac;

	print("network card %02x:%02x:%02x:%02x:%02x:%02x, MTU %u, features 0x%x\n", mac[0], mac[1],
	      mac[2], mac[3], mac[4], mac[5], host.card.mtu, host.card.features);
}

static bool open_card(void)
{
	const struct card_choice choice = {
		.features = NET_MAC | NET_MTU | NET_STATUS |
			    (guest_option("merge", 1) ? NET_MERGED_BUFFERS : 0) |
			    (guest_option("events", 1) ? NET_EVENT_INDEX : 0) |
			    (guest_option("offload", 1) ? OFFLOADS : 0),
		.buffers = (uint32_t)guest_option("buffers", 32),
		.by_message = guest_option("msix", 0),
		.polls = guest_option("poll", 0),
	};

	if (!card_open(&choice, &host.card))
		return false;
	print_card();
	host.has_link = card_has_link();
	if (!host.has_link)
		print("link down\n");
	return true;
}

static void tell_address(void)
{
	print("at %u.%u.%u.%u, netmask %u.%u.%u.%u, gateway %u.%u.%u.%u\n", ADDRESS(host.address),
	      ADDRESS(host.mask), ADDRESS(host.gateway));
	announce();
}

static void look_at_link(void)
{
	bool has_link = card_has_link();

	if (has_link == host.has_link)
		return;
	host.has_link = has_link;
	print("link %s\n", has_link ? "up" : "down");
	if (has_link && host.address)
		announce();
}

static void tick(void)
{
	static uint64_t last;

	if (now() == last)
		return;
	last = now();
	look_at_link();
	dhcp_tick();
	tcp_tick();
}

/* What has arrived, and what follows from it; true when there is more to do at once. */
static bool work(void)
{
	struct frame frame;
	unsigned int frames = 0;
	bool more;

	while (frames < FRAMES_AT_ONCE && card_receive(&frame)) {
		frame_arrived(&frame);
		card_release(&frame);
		frames++;
	}
	tick();
	tcp_work();
	more = udp_work();
	if (host.address)
		ping_work();
	card_flush();
	return more || frames == FRAMES_AT_ONCE;
}

static void run_until(bool (*is_over)(void))
{
	while (!is_over()) {
		/* The timer's may wait while there is always something to do. */
		if (work())
			take_pending_interrupts();
		else
			card_wait();
	}
}

static bool all_is_over(void)
{
	if (host.ends)
		return card_is_idle();
	return ping_is_over() && !guest_option("serve", 0) && card_is_idle();
}

static void find_address(void)
{
	unsigned int bits = 0;

	host.address = address_option("ip", &bits);
	host.gateway = address_option("gateway", NULL);
	host.mask = bits ? swap32(~0u << (32 - bits)) : 0;
	if (host.address)
		return;
	dhcp_begin();
	run_until(dhcp_is_bound);
}

int guest_main(void)
{
	struct card_counts counts;
	n32 pinged;

	pic_init();
	if (!open_card()) {
		print("there is no virtio network card\n");
		return EXIT_NO_CARD;
	}
	timer_start(TICKS_PER_SECOND);
	tcp_begin();
	find_address();
	tell_address();
	pinged = address_option("ping", NULL);
	if (pinged)
		ping_begin(pinged, (uint32_t)guest_option("count", 3),
			   (uint32_t)guest_option("size", 56));
	run_until(all_is_over);
	counts = card_counts();
	card_close();
	print("frames: %lu received, %lu sent, %lu dropped\n", counts.received, counts.sent,
	      counts.dropped);
	return ping_was_answered() ? EXIT_SUCCESS : EXIT_NO_ANSWER;
}
