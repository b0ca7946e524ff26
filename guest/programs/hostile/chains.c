/* SPDX-License-Identifier: MIT */
/* Chains of descriptors that no driver may make (virtio 1.2, 2.7.5 and 5.2.6). */
#include "hostile.h"

static uint8_t private_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static void one(uint64_t address, uint32_t length, uint16_t flags, uint16_t next)
{
	describe(area->descriptors, 0, address, length, flags, next);
	offer(0);
}

static void no_bytes(void)
{
	describe_read();
	area->descriptors[1].length = 0;
	offer(0);
}

static void loop_of_one(void)
{
	one(address_of(&area->header), 16, DESCRIPTOR_NEXT, 0);
}

static void loop_of_three(void)
{
	describe_read();
	area->descriptors[2].flags |= DESCRIPTOR_NEXT;
	offer(0);
}

static void beyond_the_descriptors(void)
{
	one(address_of(&area->header), 16, DESCRIPTOR_NEXT, QUEUE_SIZE);
}

static void far_beyond_the_descriptors(void)
{
	one(address_of(&area->header), 16, DESCRIPTOR_NEXT, 0xffff);
}

static void data_at(uint64_t address, uint32_t length)
{
	describe_read();
	area->descriptors[1].address = address;
	area->descriptors[1].length = length;
	offer(0);
}

static void no_memory(void)
{
	data_at(NO_MEMORY, SECTOR_SIZE);
}

static void out_of_memory(void)
{
	data_at(address_of(area->data), 0x7fffffff);
}

static void wraps(void)
{
	data_at(~0ull - 7, SECTOR_SIZE);
}

static void above_32_bits(void)
{
	data_at(address_of(area->data) | 1ull << 32, SECTOR_SIZE);
}

static void four_gib(void)
{
	describe_read();
	area->descriptors[1].length = 0xffffffff;
	area->descriptors[2].length = 0xffffffff;
	offer(0);
}

static void registers_of_the_apic(void)
{
	data_at(0xfee00000, SECTOR_SIZE);
}

static void its_own_registers(void)
{
	data_at(VIRTIO_GPA, SECTOR_SIZE);
}

static void read_behind_written(void)
{
	describe(area->descriptors, 0, address_of(&area->status), 1,
		 DESCRIPTOR_NEXT | DESCRIPTOR_WRITE, 1);
	describe(area->descriptors, 1, address_of(&area->header), 16, 0, 0);
	offer(0);
}

static void overlapping(void)
{
	describe_read();
	area->descriptors[2].address = address_of(area->data) + SECTOR_SIZE - 1;
	offer(0);
}

static void short_header(void)
{
	describe_read();
	area->descriptors[0].length = 15;
	offer(0);
}

static void no_status(void)
{
	one(address_of(&area->header), 16, 0, 0);
}

static void table_at(uint64_t address, uint32_t length, uint16_t flags)
{
	describe(area->table, 0, address_of(&area->header), 16, DESCRIPTOR_NEXT, 1);
	describe(area->table, 1, address_of(&area->status), 1, DESCRIPTOR_WRITE, 0);
	one(address, length, INDIRECT | flags, 1);
}

static void table_not_asked_for(void)
{
	table_at(address_of(area->table), 32, 0);
}

static void table_of_no_bytes(void)
{
	table_at(address_of(area->table), 0, 0);
}

static void table_of_24_bytes(void)
{
	table_at(address_of(area->table), 24, 0);
}

static void table_of_4_gib(void)
{
	table_at(address_of(area->table), 0xfffffff0, 0);
}

static void table_without_memory(void)
{
	table_at(NO_MEMORY, 32, 0);
}

static void table_that_wraps(void)
{
	table_at(~0ull - 15, 32, 0);
}

static void table_and_more(void)
{
	describe_read();
	table_at(address_of(area->table), 32, DESCRIPTOR_NEXT);
}

static void table_with(uint16_t flags, uint16_t next)
{
	describe(area->table, 0, address_of(area->table), 16, flags, next);
	one(address_of(area->table), 16, INDIRECT, 0);
}

static void table_in_a_table(void)
{
	table_with(INDIRECT, 0);
}

static void table_that_loops(void)
{
	table_with(DESCRIPTOR_NEXT, 0);
}

static void table_beyond_its_end(void)
{
	table_with(DESCRIPTOR_NEXT, 1);
}

static void private_data(void)
{
	data_at(address_of(private_page), SECTOR_SIZE);
}

static void private_header(void)
{
	describe_read();
	area->descriptors[0].address = address_of(private_page);
	offer(0);
}

static void private_table(void)
{
	table_at(address_of(private_page), 32, 0);
}

const struct hostile_case chain_cases[] = {
	{"a buffer of no bytes", REFUSED, no_bytes, 0, false},
	{"a chain that loops at once", REFUSED, loop_of_one, 0, false},
	{"a chain that loops", REFUSED, loop_of_three, 0, false},
	{"a chain beyond the descriptors", REFUSED, beyond_the_descriptors, 0, false},
	{"a chain far beyond the descriptors", REFUSED, far_beyond_the_descriptors, 0, false},
	{"a buffer that is no memory", REFUSED, no_memory, 0, false},
	{"a buffer that runs out of memory", REFUSED, out_of_memory, 0, false},
	{"a buffer that wraps", REFUSED, wraps, 0, false},
	{"a buffer above 4 GiB that is not there", REFUSED, above_32_bits, 0, false},
	{"8 GiB in two buffers", REFUSED, four_gib, 0, false},
	{"a buffer on the local APIC", REFUSED, registers_of_the_apic, 0, false},
	{"a buffer on the device's registers", REFUSED, its_own_registers, 0, false},
	{"a buffer to read behind one to write", REFUSED, read_behind_written, 0, false},
	{"buffers that overlap", REFUSED, overlapping, 0, false},
	{"a header of 15 bytes", REFUSED, short_header, 0, false},
	{"a request without a status", REFUSED, no_status, 0, false},
	{"a table that was not negotiated", REFUSED, table_not_asked_for, 0, false},
	{"a table of no bytes", REFUSED, table_of_no_bytes, FEATURE_INDIRECT, false},
	{"a table of 24 bytes", REFUSED, table_of_24_bytes, FEATURE_INDIRECT, false},
	{"a table of 4 GiB", REFUSED, table_of_4_gib, FEATURE_INDIRECT, false},
	{"a table that is no memory", REFUSED, table_without_memory, FEATURE_INDIRECT, false},
	{"a table that wraps", REFUSED, table_that_wraps, FEATURE_INDIRECT, false},
	{"a table that is not the last", REFUSED, table_and_more, FEATURE_INDIRECT, false},
	{"a table in a table", REFUSED, table_in_a_table, FEATURE_INDIRECT, false},
	{"a table that loops", REFUSED, table_that_loops, FEATURE_INDIRECT, false},
	{"a table beyond its end", REFUSED, table_beyond_its_end, FEATURE_INDIRECT, false},
	{"private memory to write", REFUSED, private_data, 0, true},
	{"private memory to read", REFUSED, private_header, 0, true},
	{"a private table", REFUSED, private_table, FEATURE_INDIRECT, true},
};
const unsigned int chain_count = sizeof(chain_cases) / sizeof(chain_cases[0]);
