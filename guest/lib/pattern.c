/* SPDX-License-Identifier: MIT */
/* Contents that tell where they belong. */
#include "pattern.h"
#include "mailbox.h"

uint64_t pattern_at(uint64_t address, uint64_t seed)
{
	return (address ^ seed) * MAIL_PATTERN;
}

void pattern_fill(const struct span *span, uint64_t seed)
{
	for (uint64_t address = span->start; address < span->end; address += 8)
		*(volatile uint64_t *)address = pattern_at(address, seed);
}

uint64_t pattern_wrong(const struct span *span, uint64_t seed)
{
	for (uint64_t address = span->start; address < span->end; address += 8)
		if (*(volatile uint64_t *)address != pattern_at(address, seed))
			return address;
	return NOTHING_WRONG;
}

uint64_t zero_wrong(const struct span *span)
{
	for (uint64_t address = span->start; address < span->end; address += 8)
		if (*(volatile uint64_t *)address)
			return address;
	return NOTHING_WRONG;
}

uint64_t pattern_count_wrong(const struct span *span, uint64_t seed)
{
	uint64_t wrong = 0;

	for (uint64_t address = span->start; address < span->end; address += 8)
		wrong += *(volatile uint64_t *)address != pattern_at(address, seed);
	return wrong;
}

uint64_t zero_count_wrong(const struct span *span)
{
	uint64_t wrong = 0;

	for (uint64_t address = span->start; address < span->end; address += 8)
		wrong += *(volatile uint64_t *)address != 0;
	return wrong;
}
