/* SPDX-License-Identifier: MIT */
/* Page tables: what faults, with which error code, and which bits a walk sets. */
#include "memory.h"
#include "suite.h"

#define PRESENT 0x1UL
#define WRITABLE 0x2UL
#define USER 0x4UL
#define ACCESSED 0x20UL
#define DIRTY 0x40UL
#define NO_EXECUTE (1UL << 63)
#define ADDRESS 0xffffffffff000UL
#define VIRTUAL 0x8000000000UL /* 512 GiB: an entry of the top table that is free */

#define ERROR_PRESENT 0x1
#define ERROR_WRITE 0x2
#define ERROR_FETCH 0x10

#define MSR_EFER 0xc0000080
#define EFER_NXE (1UL << 11)

static uint64_t level3[512] __attribute__((aligned(PAGE_SIZE)));
static uint64_t level2[512] __attribute__((aligned(PAGE_SIZE)));
static uint64_t level1[512] __attribute__((aligned(PAGE_SIZE)));
static uint8_t page[2][PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static void map(uint64_t entry)
{
	level1[0] = entry;
	__asm__ volatile("invlpg (%0)" : : "r"(VIRTUAL) : "memory");
}

static uint64_t look(void)
{
	return ATTEMPT("movb (%0), %%r11b", "r"(VIRTUAL));
}

static uint64_t touch(void)
{
	return ATTEMPT("movb $0x77, (%0)", "r"(VIRTUAL));
}

static bool faults(uint64_t vector, uint64_t error)
{
	return vector == PAGE_FAULT && caught_error == error && read_cr2() == VIRTUAL;
}

static uint64_t physical(unsigned int number)
{
	return (uint64_t)page[number];
}

static void build(void)
{
	uint64_t *root = (uint64_t *)(read_cr3() & ADDRESS);

	root[VIRTUAL >> 39 & 511] = (uint64_t)level3 | PRESENT | WRITABLE | USER;
	level3[0] = (uint64_t)level2 | PRESENT | WRITABLE | USER;
	level2[0] = (uint64_t)level1 | PRESENT | WRITABLE | USER;
	write_cr3(read_cr3());
}

static void no_execute(void)
{
	uint32_t low = (uint32_t)(rdmsr(MSR_EFER) | EFER_NXE);

	__asm__ volatile("wrmsr" : : "c"(MSR_EFER), "a"(low), "d"(0) : "memory");
	page[0][0] = 0xc3; /* ret */
	map(physical(0) | PRESENT);
	__asm__ volatile("call *%0" : : "r"(VIRTUAL) : "memory");
	check("code is executed", true);
	map(physical(0) | PRESENT | NO_EXECUTE);
	check("a fetch is refused",
	      faults(ATTEMPT("jmp *%0", "r"(VIRTUAL)), ERROR_PRESENT | ERROR_FETCH));
	check("and a read is not", look() == NO_EXCEPTION);
}

int guest_main(void)
{
	catch_exceptions();
	build();
	map(0);
	check("a read of nothing", faults(look(), 0));
	check("a write to nothing", faults(touch(), ERROR_WRITE));
	map(physical(0) | PRESENT);
	check("a read", look() == NO_EXCEPTION);
	check("sets accessed", (level1[0] & (ACCESSED | DIRTY)) == ACCESSED);
	check("a write to what is read-only", faults(touch(), ERROR_PRESENT | ERROR_WRITE));
	map(physical(0) | PRESENT | WRITABLE);
	check("a write", touch() == NO_EXCEPTION && page[0][0] == 0x77);
	check("sets dirty", (level1[0] & (ACCESSED | DIRTY)) == (ACCESSED | DIRTY));
	check("tables are accessed", level2[0] & level3[0] & ACCESSED);
	map(physical(1) | PRESENT | WRITABLE);
	check("another page", touch() == NO_EXCEPTION && page[1][0] == 0x77);
	no_execute();
	return suite_end();
}
