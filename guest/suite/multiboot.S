/* SPDX-License-Identifier: MIT */
/*
 * The Multiboot entry (specification 0.6.96): 32-bit protected mode, flat segments, no paging. The
 * image goes on as if it had been entered by PVH, with a start info that says next to nothing.
 */
#include "protocol.h"

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 0

	.section .multiboot, "a"
	.balign 4
	.long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

	.section .text.entry, "ax"
	.code32
	.global multiboot_entry
multiboot_entry:
	mov	$start_info, %ebx
	jmp	pvh_entry

	.section .rodata.start_info, "a"
	.balign 8
start_info:
	.long PVH_START_MAGIC, 1, 0, 0	/* magic, version, flags, modules */
	.quad 0, 0, 0, 0		/* modules, command line, RSDP, memory map */
	.long 0, 0			/* entries of the memory map */

	.section .note.GNU-stack, "", @progbits
