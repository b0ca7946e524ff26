/* SPDX-License-Identifier: MIT */
/*
 * The PVH entry: 32-bit protected mode, flat segments, no paging, EBX = struct hvm_start_info.
 * https://xenbits.xen.org/docs/unstable/misc/pvh.html
 */
#include "protocol.h"
#include "segments.h"

#define CR0_PE (1 << 0)
#define CR0_WP (1 << 16)
#define CR0_PG (1 << 31)
#define CR4_PAE (1 << 5)
#define MSR_EFER 0xc0000080
#define EFER_LME (1 << 8)

	.section .note.Xen, "a", @note
	.balign 4
	.long 4, 4, NOTE_XEN_PHYS32_ENTRY
	.asciz "Xen"
	.long pvh_entry

	.section .text.entry, "ax"
	.code32
	.global pvh_entry
pvh_entry:
	cld
	mov	$stack_top, %esp
	mov	%cr4, %eax
	or	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	$page_map_level4, %eax
	mov	%eax, %cr3
	mov	$MSR_EFER, %ecx
	rdmsr
	or	$EFER_LME, %eax
	wrmsr
	mov	%cr0, %eax
	or	$(CR0_PG | CR0_WP | CR0_PE), %eax
	mov	%eax, %cr0
	lgdt	gdt_pointer
	ljmp	$KERNEL_CS, $long_mode

	.code64
long_mode:
	mov	$KERNEL_DS, %eax
	mov	%eax, %ss
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %fs
	mov	%eax, %gs
	mov	%ebx, %edi
	xor	%esi, %esi	/* no launch info */
	xor	%ebp, %ebp
	call	guest_start

	.section .data.gdt, "aw"
	.balign 8
	.global gdt
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* KERNEL_CS: 64-bit code */
	.quad	0x00cf93000000ffff	/* KERNEL_DS */
	.quad	0x00cff3000000ffff	/* USER_DS: SYSRET wants it in front of USER_CS */
	.quad	0x00affb000000ffff	/* USER_CS: 64-bit code */
	.quad	0, 0			/* TASK: filled in at run time, because it holds a split address */
gdt_end:
	.global gdt_pointer
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt

/*
 * The first 4 GiB, identity-mapped with 2 MiB pages, ready-made in the image: filling the tables in
 * at run time would be 8,000 instructions, and supervisor code may be running in an emulator.
 */
#define PAGE_PRESENT_WRITE 0x3
#define PAGE_ACCESSED_DIRTY 0x60
#define PAGE_LARGE 0x80

	.section .data.page_tables, "aw"
	.balign 4096
	.global page_map_level4
page_map_level4:
	.quad	page_directory_pointers + PAGE_PRESENT_WRITE
	.fill	511, 8, 0
page_directory_pointers:
	.quad	page_directories + 0x0000 + PAGE_PRESENT_WRITE
	.quad	page_directories + 0x1000 + PAGE_PRESENT_WRITE
	.quad	page_directories + 0x2000 + PAGE_PRESENT_WRITE
	.quad	page_directories + 0x3000 + PAGE_PRESENT_WRITE
	.fill	508, 8, 0
page_directories:
	.set	address, 0
	.rept	2048
	.quad	address + PAGE_PRESENT_WRITE + PAGE_ACCESSED_DIRTY + PAGE_LARGE
	.set	address, address + 0x200000
	.endr

	.section .bss.stack, "aw", @nobits
	.balign 4096
	.skip	16384
	.global stack_top
stack_top:
	.section .note.GNU-stack, "", @progbits
