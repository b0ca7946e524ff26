/* SPDX-License-Identifier: MIT */
/* Selectors of the GDT in entry/pvh.S; for C and the assembler. */
#ifndef GUEST_SEGMENTS_H
#define GUEST_SEGMENTS_H

#define KERNEL_CS 0x08
#define KERNEL_DS 0x10
#define USER_DS 0x1b
#define USER_CS 0x23
#define TASK 0x28

#ifdef __ASSEMBLER__

/* In 64-bit mode, on a stack: from somebody else's page tables, GDT and segments to ours. RAX goes. */
.macro load_image_tables
	mov	$page_map_level4, %eax
	mov	%rax, %cr3
	lgdt	gdt_pointer(%rip)
	mov	$KERNEL_DS, %eax
	mov	%eax, %ss
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %fs
	mov	%eax, %gs
	pushq	$KERNEL_CS
	lea	.Lloaded\@(%rip), %rax
	push	%rax
	lretq
.Lloaded\@:
.endm

#endif
#endif
