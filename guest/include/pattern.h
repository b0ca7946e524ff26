/* SPDX-License-Identifier: MIT */
/*
 * Contents that tell where they belong: every 8 bytes hold (address ^ seed) * an odd number, so it
 * shows what is from elsewhere, or from an earlier seed. Addresses and sizes are multiples of 8.
 */
#ifndef GUEST_PATTERN_H
#define GUEST_PATTERN_H

#include <stdint.h>

#include "memory.h"

#define NOTHING_WRONG UINT64_MAX

uint64_t pattern_at(uint64_t address, uint64_t seed);
void pattern_fill(const struct span *span, uint64_t seed);
/* The first address that holds something else than the pattern, or NOTHING_WRONG. */
uint64_t pattern_wrong(const struct span *span, uint64_t seed);
/* The first address that does not hold zero, or NOTHING_WRONG. */
uint64_t zero_wrong(const struct span *span);
/* How many words hold something else. */
uint64_t pattern_count_wrong(const struct span *span, uint64_t seed);
uint64_t zero_count_wrong(const struct span *span);

#endif
