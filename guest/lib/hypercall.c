/* SPDX-License-Identifier: MIT */
/* Hypercalls: AMD and Intel have an instruction each; the firmware, or CPUID, tells which. */
#include "guest.h"
#include "hypercall.h"
#include "private.h"

/* The last 4 of the 12 characters of the vendor's name, which CPUID leaf 0 gives in ECX. */
#define AUTHENTICAMD 0x444d4163 /* "cAMD" */
#define HYGONGENUINE 0x656e6975 /* "uine" */

static uint32_t find_instruction(void)
{
	if (launch_info())
		return launch_info()->hypercall;

	uint32_t vendor = cpuid(0, 0).ecx;

	return vendor == AUTHENTICAMD || vendor == HYGONGENUINE ? LAUNCH_HYPERCALL_VMMCALL
								: LAUNCH_HYPERCALL_VMCALL;
}

static bool has_vmmcall(void)
{
	static uint32_t instruction;

	if (!instruction)
		instruction = find_instruction();
	return instruction == LAUNCH_HYPERCALL_VMMCALL;
}

int64_t hypercall(uint64_t number, uint64_t first, uint64_t second, uint64_t third)
{
	int64_t result;

	if (has_vmmcall())
		__asm__ volatile("vmmcall"
				 : "=a"(result)
				 : "a"(number), "b"(first), "c"(second), "d"(third)
				 : "memory");
	else
		__asm__ volatile("vmcall"
				 : "=a"(result)
				 : "a"(number), "b"(first), "c"(second), "d"(third)
				 : "memory");
	return result;
}
