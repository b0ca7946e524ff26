/* SPDX-License-Identifier: MIT */
/* The course of a launch; README.md tells it. Only the processor with the APIC id 0 comes here. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block.h"
#include "console.h"
#include "copy.h"
#include "instructions.h"
#include "sha384.h"

#define CPUID_VENDOR 0
#define CPUID_EXTENDED 0x80000000
#define CPUID_EXTENDED_FEATURES 0x80000001
#define EXTENDED_FEATURE_1G_PAGES (1U << 26)

#define PAGE_PRESENT_WRITE 0x3
#define TABLES 6 /* as in reset.S: one, one, and four that map 1 GiB each */

struct launch_report {
	uint64_t magic;
	uint32_t status;
	uint32_t pages;
	uint8_t digest[DIGEST_BYTES];
	uint64_t detail;
};

struct launch_info {
	uint64_t magic;
	uint32_t cpus;
	uint32_t hypercall;
	uint32_t page_level;
	uint32_t flags;
	uint64_t window_gpa;
	uint64_t window_size;
	uint8_t digest[DIGEST_BYTES];
	uint32_t parked;
};

#define FIELD_IS(structure, field, offset)                                                         \
	_Static_assert(offsetof(struct structure, field) == (offset), #field " is elsewhere")
FIELD_IS(launch_report, status, LAUNCH_REPORT_STATUS);
FIELD_IS(launch_report, pages, LAUNCH_REPORT_PAGES);
FIELD_IS(launch_report, digest, LAUNCH_REPORT_DIGEST);
FIELD_IS(launch_report, detail, LAUNCH_REPORT_DETAIL);
FIELD_IS(launch_info, cpus, LAUNCH_INFO_CPUS);
FIELD_IS(launch_info, hypercall, LAUNCH_INFO_HYPERCALL);
FIELD_IS(launch_info, page_level, LAUNCH_INFO_PAGE_LEVEL);
FIELD_IS(launch_info, flags, LAUNCH_INFO_FLAGS);
FIELD_IS(launch_info, window_gpa, LAUNCH_INFO_WINDOW_GPA);
FIELD_IS(launch_info, window_size, LAUNCH_INFO_WINDOW_SIZE);
FIELD_IS(launch_info, digest, LAUNCH_INFO_DIGEST);
FIELD_IS(launch_info, parked, LAUNCH_INFO_PARKED);

/* From and for reset.S. */
extern volatile struct launch_report launch_report;
extern const char launch_code[], launch_code_end[];
extern const uint64_t page_map_level4[];
extern uint64_t launch_entry, launch_start_info;
extern uint32_t launch_cpus;
extern uint32_t launch_ready, processor_twice;
extern volatile uint64_t processors_here[4];
void load(void);

uint64_t launch_entry, launch_start_info;
uint32_t launch_cpus;
uint32_t launch_ready, processor_twice;

/* Our copy of the boot block: the monitor can change the other one at any time. */
static union {
	struct boot_block block;
	uint8_t bytes[BOOT_BLOCK_MAX];
} ours;

static uint8_t digest[DIGEST_BYTES];
static uint32_t pages;

static void report(uint32_t status, uint64_t detail)
{
	launch_report.status = status;
	launch_report.pages = pages;
	for (int i = 0; i < DIGEST_BYTES; i++)
		launch_report.digest[i] = digest[i];
	launch_report.detail = detail;
	launch_report.magic = LAUNCH_REPORT_MAGIC;
}

/* The line on the console has been written. */
static _Noreturn void give_up(uint8_t status, uint64_t detail)
{
	report(status, detail);
	outb(PORT_EXIT, status);
	halt();
}

static _Noreturn void give_up_broken(struct complaint complaint)
{
	say("firmware: the boot block is broken at byte ");
	say_hexadecimal(complaint.where);
	say(": ");
	say(complaint.what);
	say("\n");
	give_up(LAUNCH_BROKEN, complaint.where);
}

static void take_block(void)
{
	const volatile struct boot_block *theirs = (const volatile struct boot_block *)STAGING_GPA;
	uint32_t size = theirs->size;
	struct complaint complaint;

	/* The rest of ours is zeroes; a size that cannot be is refused all the same. */
	if (size <= sizeof(ours))
		copy(&ours, (const void *)theirs, size);
	complaint = check_block(&ours, size);
	if (complaint.what != NULL)
		give_up_broken(complaint);
}

static bool is_amd(void)
{
	struct cpuid vendor = cpuid(CPUID_VENDOR);

	/* AuthenticAMD, HygonGenuine: by their first letters, EBX. */
	return vendor.ebx == 0x68747541 || vendor.ebx == 0x6f677948;
}

static bool has_1g_pages(void)
{
	return cpuid(CPUID_EXTENDED).eax >= CPUID_EXTENDED_FEATURES &&
	       (cpuid(CPUID_EXTENDED_FEATURES).edx & EXTENDED_FEATURE_1G_PAGES) != 0;
}

static void make_private(uint64_t gpa, uint64_t size)
{
	int64_t result = HYPERCALL_MAP_GPA_RANGE;

	if ((ours.block.flags & BOOT_CONVERT) == 0)
		return;
	if (is_amd())
		__asm__ volatile("vmmcall"
				 : "+a"(result)
				 : "b"(gpa), "c"(size / PAGE_SIZE), "d"((uint64_t)MAP_GPA_RANGE_PRIVATE)
				 : "memory");
	else
		__asm__ volatile("vmcall"
				 : "+a"(result)
				 : "b"(gpa), "c"(size / PAGE_SIZE), "d"((uint64_t)MAP_GPA_RANGE_PRIVATE)
				 : "memory");
	if (result == 0)
		return;
	say("firmware: the monitor refused to make ");
	say_hexadecimal(size);
	say(" bytes at ");
	say_hexadecimal(gpa);
	say(" private, with ");
	say_hexadecimal((uint64_t)result);
	say("\n");
	give_up(LAUNCH_REFUSED, gpa);
}

/* What the digest goes on with: 16 bytes of name, and two numbers; or a page and its address. */
static void measure_page(uint64_t gpa)
{
	struct sha384 sha;

	sha384_start(&sha);
	sha384_add(&sha, digest, sizeof(digest));
	sha384_add(&sha, &gpa, sizeof(gpa));
	sha384_add(&sha, (const void *)gpa, PAGE_SIZE);
	sha384_end(&sha, digest);
	pages++;
}

static void measure_entry(void)
{
	static const char name[16] = "pyvmm entry";
	struct sha384 sha;

	sha384_start(&sha);
	sha384_add(&sha, digest, sizeof(digest));
	sha384_add(&sha, name, sizeof(name));
	sha384_add(&sha, &ours.block.entry, sizeof(ours.block.entry));
	sha384_add(&sha, &ours.block.start_info, sizeof(ours.block.start_info));
	sha384_end(&sha, digest);
}

static void take_runs(void)
{
	const struct boot_run *runs = boot_runs(&ours.block);

	for (uint32_t i = 0; i < ours.block.run_count; i++) {
		uint64_t end = runs[i].gpa + runs[i].size;

		make_private(runs[i].gpa, runs[i].size);
		copy_words((void *)runs[i].gpa, (const void *)(STAGING_GPA + runs[i].source),
			   runs[i].size);
		for (uint64_t gpa = runs[i].gpa; gpa < end; gpa += PAGE_SIZE)
			measure_page(gpa);
	}
	measure_entry();
}

static void compare(void)
{
	uint8_t difference = 0;

	if ((ours.block.flags & BOOT_EXPECT) == 0)
		return;
	for (int i = 0; i < DIGEST_BYTES; i++)
		difference |= digest[i] ^ ours.block.expected[i];
	if (difference == 0)
		return;
	say("firmware: the image's digest is ");
	say_bytes(digest, sizeof(digest));
	say(", not the expected ");
	say_bytes(ours.block.expected, sizeof(ours.block.expected));
	say("\n");
	give_up(LAUNCH_MISMATCH, 0);
}

static void write_tables(void)
{
	uint64_t *tables = (uint64_t *)LAUNCH_TABLES;
	uint64_t *pointers = tables + PAGE_SIZE / 8;

	copy_words(tables, page_map_level4, TABLES * PAGE_SIZE);
	tables[0] = LAUNCH_TABLES + PAGE_SIZE + PAGE_PRESENT_WRITE;
	for (uint64_t i = 0; i < 4; i++)
		pointers[i] = LAUNCH_TABLES + (2 + i) * PAGE_SIZE + PAGE_PRESENT_WRITE;
}

static void write_info(void)
{
	struct launch_info *info = (struct launch_info *)LAUNCH_INFO;

	clear_words(info, PAGE_SIZE);
	info->magic = LAUNCH_INFO_MAGIC;
	info->cpus = ours.block.cpus;
	info->hypercall = is_amd() ? LAUNCH_HYPERCALL_VMMCALL : LAUNCH_HYPERCALL_VMCALL;
	info->page_level = has_1g_pages() ? LAUNCH_PAGE_LEVEL_1G : LAUNCH_PAGE_LEVEL_2M;
	info->flags = (ours.block.flags & BOOT_CONVERT) != 0 ? LAUNCH_INFO_PRIVATE : 0;
	info->window_gpa = ours.block.window_gpa;
	info->window_size = ours.block.window_size;
	copy(info->digest, digest, sizeof(digest));
}

static void write_code(void)
{
	size_t size = (size_t)(launch_code_end - launch_code);

	clear_words((void *)LAUNCH_CODE, PAGE_SIZE);
	copy((void *)LAUNCH_CODE, launch_code, size);
}

/* Everybody who came has the initial APIC id that is expected of one of so many processors. */
static void check_processors(void)
{
	bool fine = __atomic_load_n(&processor_twice, __ATOMIC_RELAXED) == 0;

	for (uint32_t i = 0; i < 4; i++) {
		uint32_t first = 64 * i;
		uint64_t expected = ~0UL;

		if (ours.block.cpus < first + 64)
			expected = ours.block.cpus > first ? (1UL << (ours.block.cpus - first)) - 1 : 0;
		fine = fine && (processors_here[i] & ~expected) == 0;
	}
	if (!fine)
		give_up_broken((struct complaint){"there are other processors than it says",
						  BOOT_BLOCK_CPUS});
}

/* Until all others have left the firmware's memory, which goes away soon. */
static void wait_for_the_others(void)
{
	const struct launch_info *info = (const struct launch_info *)LAUNCH_INFO;

	/* All that they find there has been written before. */
	__atomic_store_n(&launch_ready, 1, __ATOMIC_RELEASE);
	while (__atomic_load_n(&info->parked, __ATOMIC_ACQUIRE) != ours.block.cpus - 1) {
		check_processors();
		pause();
	}
	check_processors();
}

void load(void)
{
	const struct boot_region *regions;

	take_block();
	take_runs();
	compare();
	regions = boot_regions(&ours.block);
	for (uint32_t i = 0; i < ours.block.region_count; i++)
		make_private(regions[i].gpa, regions[i].size);
	write_tables();
	write_info();
	write_code();
	clear_words((void *)LAUNCH_MAILBOX, PAGE_SIZE);
	launch_entry = ours.block.entry;
	launch_start_info = ours.block.start_info;
	launch_cpus = ours.block.cpus;
	wait_for_the_others();
	report(0, 0);
}
