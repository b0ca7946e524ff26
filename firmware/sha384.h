/* SPDX-License-Identifier: MIT */
/* SHA-384 (FIPS 180-4). */
#ifndef FIRMWARE_SHA384_H
#define FIRMWARE_SHA384_H

#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

#define SHA384_BLOCK 128

struct sha384 {
	uint64_t state[8];
	uint64_t size; /* of everything so far, in bytes */
	uint8_t rest[SHA384_BLOCK];
};

void sha384_start(struct sha384 *sha);
void sha384_add(struct sha384 *sha, const void *data, size_t size);
void sha384_end(struct sha384 *sha, uint8_t digest[DIGEST_BYTES]);

#endif
