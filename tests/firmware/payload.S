/* SPDX-License-Identifier: MIT */
/*
 * What the firmware launches in the tests: at 1 MiB, and the entry is its first byte. It tells
 * through ports what it finds: after a launch nobody else may be able to look. Register-form IN and
 * OUT only.
 *
 * port 0x500, 4 bytes: the launch info, word by word; then a word for each processor that was woken,
 * argument << 8 | which. Then the run ends with 7.
 */
#include "protocol.h"

#define PORT_TELL 0x500
#define INFO_WORDS 24

	.text
	.code64
entry:
	mov	%rsi, %rbp
	mov	$stack_top - entry + 0x100000, %esp
	mov	$INFO_WORDS, %ecx
	mov	$PORT_TELL, %edx
0:	mov	(%rsi), %eax
	out	%eax, %dx
	add	$4, %rsi
	dec	%ecx
	jnz	0b

	mov	LAUNCH_INFO_CPUS(%rbp), %r8d
	mov	$1, %ecx
1:	cmp	%r8d, %ecx
	jae	3f
	/* One after the other, so that what they tell comes in order. */
	mov	%ecx, %eax
	shl	$4, %eax
	lea	LAUNCH_MAILBOX(%rax), %rdi
	lea	0xab00(%rcx), %eax
	mov	%rax, MAILBOX_ARGUMENT(%rdi)
	lea	woken(%rip), %rax
	mov	%rax, (%rdi)
2:	pause
	cmp	awake(%rip), %ecx
	jne	2b
	inc	%ecx
	jmp	1b
3:	mov	$PORT_EXIT, %edx
	mov	$7, %eax
	out	%al, %dx
4:	pause
	jmp	4b

woken:
	mov	%edi, %eax
	shl	$8, %eax
	or	%esi, %eax
	mov	$PORT_TELL, %edx
	out	%eax, %dx
	lock incl awake(%rip)
5:	pause
	jmp	5b

	.balign 8
awake:
	.long	0
	.balign 16
	.skip	64
stack_top:
	.section .note.GNU-stack, "", @progbits
