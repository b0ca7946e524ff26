/* SPDX-License-Identifier: MIT */
/* Model-specific registers that every 64-bit processor has: what they keep. */
#include "suite.h"

static uint64_t read(uint32_t msr, uint64_t *value)
{
	uint32_t low = 0, high = 0;

	caught_vector = NO_EXCEPTION;
	__asm__ volatile("leaq 1f(%%rip), %%r11; movq %%r11, resume_at(%%rip); rdmsr; 1:"
			 : "+a"(low), "+d"(high)
			 : "c"(msr)
			 : "r11", "memory");
	*value = (uint64_t)high << 32 | low;
	return caught_vector;
}

static uint64_t write(uint32_t msr, uint64_t value)
{
	return ATTEMPT("wrmsr", "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static const struct {
	const char *name;
	uint32_t msr;
	uint64_t value;
} kept[] = {
	{"SYSENTER_CS", 0x174, 0x1234},
	{"SYSENTER_ESP", 0x175, 0x123456789000},
	{"SYSENTER_EIP", 0x176, 0x123456789000},
	{"STAR", 0xc0000081, 0x1234567890abcdef},
	{"LSTAR", 0xc0000082, 0x123456789000},
	{"CSTAR", 0xc0000083, 0x123456789000},
	{"SYSCALL_MASK", 0xc0000084, 0x4700},
	{"FS_BASE", 0xc0000100, 0x123456789000},
	{"GS_BASE", 0xc0000101, 0x123456789000},
	{"KERNEL_GS_BASE", 0xc0000102, 0x123456789000},
};

#define MSR_EFER 0xc0000080
#define EFER_LME_LMA 0x500

static uint64_t read_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

int guest_main(void)
{
	uint64_t value, before;

	catch_exceptions();
	for (size_t at = 0; at < sizeof(kept) / sizeof(*kept); at++) {
		uint64_t outcome = write(kept[at].msr, kept[at].value);

		read(kept[at].msr, &value);
		check(kept[at].name, outcome == NO_EXCEPTION && value == kept[at].value);
	}
	read(MSR_EFER, &value);
	check("EFER: long mode", (value & EFER_LME_LMA) == EFER_LME_LMA);
	before = read_tsc();
	wait_microseconds(100);
	check("the time stamp goes on", read_tsc() > before);
	return suite_end();
}
