/* SPDX-License-Identifier: MIT */
/* A call that can be left from anywhere below it; one at a time. */

	.section .text.case_call, "ax"
	.global case_call
case_call:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, case_stack(%rip)
	sub	$8, %rsp	/* The ABI wants it a multiple of 16 before a call. */
	call	*%rdi
	add	$8, %rsp
return:
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

	.global case_leave
case_leave:
	cld
	mov	case_stack(%rip), %rsp
	jmp	return

	.section .bss.case_stack, "aw", @nobits
	.balign 8
case_stack:
	.skip	8

	.section .note.GNU-stack, "", @progbits
