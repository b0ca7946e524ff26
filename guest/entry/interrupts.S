/* SPDX-License-Identifier: MIT */
/*
 * What the IDT's gates point at: 16 bytes of code per vector, so that gate n is interrupt_stubs +
 * 16 * n. Each leaves a struct interrupt_frame (include/interrupts.h) on the stack.
 */
#include "interrupts.h"

/* SDM volume 3, table 6-1: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC and #SX push an error code. */
#define PUSHES_ERROR_CODE 0x60227d00

/* In struct interrupt_frame. */
#define FRAME_RIP 136

	.section .text.interrupts, "ax"
	.global wait_for_interrupt
wait_for_interrupt:
	sti
halt_of_wait:
	hlt
	cli
	ret

	.global interrupt_stubs
	.balign 16
interrupt_stubs:
	.set	vector, 0
	.rept	INTERRUPT_STUBS
	.balign 16
	.if	(vector >= 32) || !((PUSHES_ERROR_CODE >> vector) & 1)
	push	$0
	.endif
	push	$vector
	jmp	interrupt_common
	.set	vector, vector + 1
	.endr

interrupt_common:
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	cld
	/*
	 * An interrupt between STI and HLT is not to leave the CPU halted for ever. It cannot come
	 * there, but under QEMU's TCG it does: VMRUN forgets the interrupt shadow that is in the VMCB.
	 */
	cmpq	$halt_of_wait, FRAME_RIP(%rsp)
	jne	1f
	incq	FRAME_RIP(%rsp)
1:
	mov	%rsp, %rdi
	call	interrupt_dispatch
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq

	.section .note.GNU-stack, "", @progbits
