/* SPDX-License-Identifier: MIT */
/* A connection of TCP (RFC 9293), which others open and close: port 7 echoes, 9 discards, 19 sends without end. */
#ifndef NET_TCP_H
#define NET_TCP_H

#include "net.h"

#define TCP_END 0x01
#define TCP_BEGIN 0x02
#define TCP_RESET 0x04
#define TCP_PUSH 0x08
#define TCP_ACKNOWLEDGES 0x10

#define CONNECTIONS 8
#define ECHO_BYTES 16384 /* that a connection holds until they are acknowledged */
#define WINDOW_SHIFT 4

enum connection_state { FREE, HANDSHAKE, OPEN };

/*
 * Of what this host sends, offsets into the stream, where the end counts as a byte: up to `acked` it has
 * arrived, up to `sent` it is under way, or lost; up to `highest` it was sent some time. `ready` is the end.
 */
struct connection {
	enum connection_state state;
	struct peer peer;
	uint16_t peer_port, port;
	uint32_t first; /* sequence number of this host's beginning, and of the peer's */
	uint32_t peer_first;
	uint32_t next;	/* sequence number that is expected */
	uint32_t edge;	/* of the window that the peer was told */
	uint64_t acked, sent, highest, ready;
	uint32_t window;
	uint32_t segment; /* bytes of one on the wire */
	uint8_t peer_shift;
	bool scales, peer_has_ended, must_acknowledge;
	unsigned int repeated, tries;
	uint64_t since;
	uint8_t *buffer;
};

/* Bytes that may arrive now. */
uint32_t connection_room(const struct connection *connection);
void connection_free(struct connection *connection);
/* Sends what there is and fits, the end, and an acknowledgement where one is due. */
void connection_work(struct connection *connection);
void send_beginning(struct connection *connection);
/* Answers what belongs to no connection. */
void send_reset(const struct packet *packet, const struct tcp *tcp, uint32_t length);
/* Makes what port 19 sends. */
void chargen_begin(void);

#endif
