/* SPDX-License-Identifier: MIT */
/* What writes to model-specific registers raise #GP. QEMU's TCG lets them pass: this is for KVM. */
#include "suite.h"

#define MSR_EFER 0xc0000080
#define NO_SUCH_MSR 0x12345678
#define NOT_CANONICAL 0x8000123456789000

static const struct {
	const char *name;
	uint32_t msr;
} addresses[] = {
	{"LSTAR", 0xc0000082},	 {"CSTAR", 0xc0000083},		 {"FS_BASE", 0xc0000100},
	{"GS_BASE", 0xc0000101}, {"KERNEL_GS_BASE", 0xc0000102},
};

static uint64_t write(uint32_t msr, uint64_t value)
{
	return ATTEMPT("wrmsr", "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

int guest_main(void)
{
	uint64_t efer = rdmsr(MSR_EFER);

	catch_exceptions();
	for (size_t at = 0; at < sizeof(addresses) / sizeof(*addresses); at++)
		check(addresses[at].name,
		      write(addresses[at].msr, NOT_CANONICAL) == GENERAL_PROTECTION);
	check("EFER: reserved bits", write(MSR_EFER, efer | 1UL << 63) == GENERAL_PROTECTION);
	check("EFER: unchanged", rdmsr(MSR_EFER) == efer);
	check("no such MSR", write(NO_SUCH_MSR, 1) == GENERAL_PROTECTION);
	return suite_end();
}
