/* SPDX-License-Identifier: MIT */
/*
 * The instructions of the library that hypervisors intercept, those of a 64-bit guest's entry apart.
 * A test looks for them everywhere else (tests/guest/test_private_code.py).
 */
#include "guest.h"
#include "private.h"

static void check_allowed(const char *instruction)
{
	if (launch_info())
		panic("%s after a private launch", instruction);
}

struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid result;

	check_allowed("CPUID");
	__asm__ volatile("cpuid"
			 : "=a"(result.eax), "=b"(result.ebx), "=c"(result.ecx), "=d"(result.edx)
			 : "a"(leaf), "c"(subleaf));
	return result;
}

uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	check_allowed("RDMSR");
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}
