/* SPDX-License-Identifier: MIT */
/*
 * Where other processors begin after a start-up IPI: in real mode, at a page below 1 MiB to which
 * this has been copied; from there to 64-bit mode with the image's tables.
 */
#include "segments.h"

#define CR0_PE (1 << 0)
#define CR0_WP (1 << 16)
#define CR0_PG (1 << 31)
#define CR4_PAE (1 << 5)
#define MSR_EFER 0xc0000080
#define EFER_LME (1 << 8)

	.section .rodata.startup, "a"
	.code16
	.global startup_code, startup_code_end
startup_code:
	cli
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	startup_gdt_pointer - startup_code
	mov	%cr0, %eax
	or	$CR0_PE, %eax
	mov	%eax, %cr0
	ljmpl	$8, $startup_protected

	.balign 8
startup_gdt:
	.quad	0
	.quad	0x00cf9b000000ffff
	.quad	0x00cf93000000ffff
startup_gdt_pointer:
	.word	. - startup_gdt - 1
	.long	startup_gdt
startup_code_end:

	.section .text.startup, "ax"
	.code32
startup_protected:
	mov	$16, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
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
	ljmp	$KERNEL_CS, $startup_long

	.code64
startup_long:
	mov	$KERNEL_DS, %eax
	mov	%eax, %ss
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %fs
	mov	%eax, %gs
	mov	$4096, %eax
	lock xadd %rax, stacks_taken(%rip)
	lea	stacks + 4096(%rip), %rsp
	add	%rax, %rsp
	xor	%ebp, %ebp
	call	processor_main

	.section .note.GNU-stack, "", @progbits
