/* SPDX-License-Identifier: MIT */
/* Into ring 3 and back. */
#include "segments.h"

	.text
/*
 * uint64_t user_enter(uint64_t first, uint64_t second, uint64_t rip, uint64_t rsp): returns what
 * user_leave is called with.
 */
	.global user_enter
user_enter:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, kernel_rsp(%rip)
	pushq	$USER_DS
	push	%rcx
	pushq	$2		/* RFLAGS: interrupts stay off */
	pushq	$USER_CS
	push	%rdx
	iretq

/* _Noreturn void user_leave(uint64_t value): drops the interrupt that brought us here. */
	.global user_leave
user_leave:
	mov	%rdi, %rax
	mov	kernel_rsp(%rip), %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

/* Where a user function returns to: the stack that it is given has this address on it. */
	.section .user.text, "ax"
	.global user_return
user_return:
	mov	%rax, %rdi
	xor	%eax, %eax	/* USER_CALL_RETURN */
	int3

	.section .bss.user_entry, "aw", @nobits
	.balign 16
	.skip	8192
	.global user_kernel_stack_top
user_kernel_stack_top:
kernel_rsp:
	.skip	8

	.section .note.GNU-stack, "", @progbits
