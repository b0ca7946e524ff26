/* Hypercalls: AMD and Intel have an instruction each, and CPUID tells which. */
#include "guest.h"
#include "hypercall.h"

/* The last 4 of the 12 characters of the vendor's name, which CPUID leaf 0 gives in ECX. */
#define AUTHENTICAMD 0x444d4163 /* "cAMD" */
#define HYGONGENUINE 0x656e6975 /* "uine" */

static bool has_vmmcall(void)
{
	static enum { UNKNOWN, VMCALL, VMMCALL } instruction;

	if (instruction == UNKNOWN) {
		uint32_t vendor = cpuid(0, 0).ecx;

		instruction = vendor == AUTHENTICAMD || vendor == HYGONGENUINE ? VMMCALL : VMCALL;
	}
	return instruction == VMMCALL;
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
