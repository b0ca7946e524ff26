/* SPDX-License-Identifier: MIT */
/*
 * A page that host and guest share to talk to each other. The guest shares it and prints
 * "mailbox at 0x...". In it are two channels, one for each side that asks. Who asks writes command and
 * arguments, then adds one to MAIL_REQUEST; who answers writes the result, then copies MAIL_REQUEST to
 * MAIL_ANSWER. So a request is open as long as the two differ. Everything is a u64, little endian,
 * at offsets in bytes. As in protocol.h, tests parse the defines.
 */
#ifndef GUEST_MAILBOX_H
#define GUEST_MAILBOX_H

/* At offset 0, written when the page is ready. */
#define MAIL_MAGIC 0x314c49414d565950
/* The channels: the host asks on the first, the guest on the second. */
#define MAIL_HOST_ASKS 64
#define MAIL_GUEST_ASKS 128

/* Offsets in a channel. */
#define MAIL_REQUEST 0
#define MAIL_ANSWER 8
#define MAIL_COMMAND 16
#define MAIL_RESULT 24
#define MAIL_ARGUMENTS 32
#define MAIL_ARGUMENTS_MAX 4

/*
 * What the host can ask. Addresses are GPAs below 4 GiB, multiples of 8, sizes are bytes, multiples of
 * 8; MAIL_SHARE and MAIL_UNSHARE want multiples of 4096. The result of what cannot be is MAIL_INVALID.
 */
/* status: the end of the conversation; what the guest then ends with; 0. */
#define MAIL_END 0
/* a, b: the sum. */
#define MAIL_ADD 1
/* gpa: the complement of the u64 there. */
#define MAIL_READ 2
/* gpa, value: writes a u64; 0. */
#define MAIL_WRITE 3
/* gpa, size: 0, or the negative result of the hypercall. */
#define MAIL_SHARE 4
#define MAIL_UNSHARE 5
/* gpa, size, seed: every u64 gets (its GPA ^ seed) * MAIL_PATTERN; 0. */
#define MAIL_FILL 6
/* gpa, size, seed: how many u64 are not as MAIL_FILL makes them. */
#define MAIL_CHECK 7
/* gpa, size: how many u64 are not zero. */
#define MAIL_CHECK_ZERO 8
/* gpa, pages, attributes: KVM_HC_MAP_GPA_RANGE's result. */
#define MAIL_CONVERT 9
/* size: the GPA of so much free memory, aligned to 2 MiB; 0 where there is none. */
#define MAIL_TAKE 10

#define MAIL_PATTERN 0x9e3779b97f4a7c15
#define MAIL_INVALID 0xffffffffffffffea

/* What the guest can ask. gpa, size: makes a hole in private memory, converts nothing; 0. */
#define MAIL_PUNCH 32
/* gpa, size: the host looks at what it can; 0 when it has seen enough. */
#define MAIL_LOOK 33

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stdint.h>

/* Takes a page, shares it and prints where it is. Once per run. */
void mailbox_open(void);
/* Answers the host's requests until MAIL_END, and that too: its first argument. */
uint64_t mailbox_serve(void);
/* Whether the host has asked for something: mailbox_serve answers it. */
bool mailbox_has_request(void);
/* Asks the host and waits: its result. */
int64_t mailbox_ask(uint64_t command, uint64_t first, uint64_t second);

#endif
#endif
