/* SPDX-License-Identifier: MIT */
/*
 * A virtio network card (virtio 1.2, 5.1): the first one, its first pair of queues. Interrupts are off but
 * in card_wait, and what is put into the rings is told to the device by card_flush.
 */
#ifndef GUEST_VIRTIO_NET_H
#define GUEST_VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

#define VIRTIO_NET 1

/* Features. */
#define NET_CHECKSUM (1u << 0)
#define NET_GUEST_CHECKSUM (1u << 1)
#define NET_MTU (1u << 3)
#define NET_MAC (1u << 5)
#define NET_GUEST_TSO4 (1u << 7)
#define NET_HOST_TSO4 (1u << 11)
#define NET_MERGED_BUFFERS (1u << 15)
#define NET_STATUS (1u << 16)
#define NET_EVENT_INDEX (1u << 29)

/* Before each frame. */
struct net_header {
	uint8_t flags, segmentation;
	uint16_t header_length, segment_size, checksum_start, checksum_offset, buffers;
} __attribute__((packed));

#define NET_NEEDS_CHECKSUM 1
#define NET_DATA_VALID 2
#define NET_TCP4 1

#define MAC_SIZE 6
#define ETHERNET_SIZE 14

#define CARD_BUFFER 4096  /* bytes of one that frames are received into, where they can be merged */
#define CARD_PIECES 20	  /* of such, for the longest frame */
#define CARD_BUFFERS_MOST 256
#define CARD_SLOTS_MOST 128

struct card_choice {
	uint32_t features; /* that are taken where they are offered */
	uint32_t buffers;  /* to receive into, and to send from, at most */
	bool by_message;   /* interrupts on PCI by MSI-X */
	bool polls;	   /* no interrupts of the card's */
};

struct card_facts {
	uint32_t features; /* that are in use */
	uint8_t mac[MAC_SIZE];
	uint32_t mtu; /* bytes of an IP packet, at most */
	uint32_t buffers;
};

/* A frame that came, behind its header; it is the driver's own until it is released. */
struct frame {
	struct net_header header;
	uint32_t length; /* of the frame */
	unsigned int pieces;
	struct {
		const volatile uint8_t *bytes;
		uint32_t length;
	} piece[CARD_PIECES];
	uint16_t heads[CARD_PIECES];
	unsigned int buffers;
};

/* A frame to be sent: its header, and at `bytes` room for an MTU behind an Ethernet header. */
struct slot {
	volatile struct net_header *header;
	volatile uint8_t *bytes;
	uint16_t number;
};

struct card_counts {
	uint64_t received, received_bytes, sent, sent_bytes, dropped, interrupts;
};

/* False where there is none. */
bool card_open(const struct card_choice *choice, struct card_facts *facts);
/* Back to its reset: nothing comes any more. */
void card_close(void);
/* Always true where the device does not tell. */
bool card_has_link(void);
struct card_counts card_counts(void);

/* Memory that the device may work on, in whole pages, with whatever is in it. */
void *card_memory(uint64_t size);

/* The next frame, if one has come; one that makes no sense is dropped, and counted. */
bool card_receive(struct frame *frame);
void card_release(const struct frame *frame);
/* Room for a frame; false where all is in use. card_wait then waits for that, too. */
bool card_slot(struct slot *slot);
/* Sends `length` bytes of it, and behind them `more` at `payload`, which stay as they are until it has gone. */
void card_send(const struct slot *slot, uint32_t length, const volatile void *payload, uint32_t more);
/* Whether all that was sent has come back from the device. */
bool card_is_idle(void);
void card_flush(void);
/* Until something has come, there is room again, or any other interrupt has been. */
void card_wait(void);

#endif
