/* SPDX-License-Identifier: MIT */
/*
 * A bzImage that does all its work in real mode: it asks the BIOS for what it has, says what it is
 * told, one line each, and exits with 7, or by INT 19h if its command line begins with "r".
 */
	.code16
	.text
	.globl	start
start:
	.org	0x1f1
	.byte	3			/* setup_sects */
	.word	0
	.long	1			/* syssize */
	.word	0, 0, 0
	.word	0xaa55
	jmp	1f
	.ascii	"HdrS"
	.word	0x207
	.org	0x211
	.byte	1			/* LOADED_HIGH */
	.org	0x224
heap_end:
	.word	0
	.org	0x228
command_line:
	.long	0
	.long	0x7fffffff		/* initrd_addr_max */
	.org	0x238
	.long	100			/* cmdline_size */
	.org	0x248
1:
	.macro	say text
	call	say_inline
	.asciz	"\text"
	.endm
	.macro	hex register
	push	%eax
	mov	\register, %eax
	call	say_hex
	pop	%eax
	.endm

	pushfw				/* before anything else touches them */
	pop	%bp
	say	"\r\nIF "
	and	$0x200, %bp
	movzwl	%bp, %ebp
	hex	%ebp
	say	"\r\nsegments "
	xor	%eax, %eax
	mov	%cs, %ax
	hex	%eax
	mov	%ds, %ax
	hex	%eax
	mov	%ss, %ax
	hex	%eax
	movzwl	%sp, %eax
	hex	%eax
	movzwl	heap_end, %eax
	hex	%eax

	say	"\r\nline "
	mov	command_line, %eax
	shr	$4, %eax
	push	%ds
	mov	%ax, %ds
	xor	%si, %si
	call	say_si
	pop	%ds

	say	"\r\nmemory "
	xor	%eax, %eax
	int	$0x12
	hex	%eax
	mov	$0x88ff, %ax
	int	$0x15
	hex	%eax
	mov	$0xe801, %ax
	int	$0x15
	movzwl	%bx, %ebx
	movzwl	%dx, %edx
	hex	%eax
	hex	%ebx
	hex	%edx

	xor	%ebx, %ebx
next:	push	%ds
	pop	%es
	mov	$buffer, %di
	mov	$0xe820, %eax
	mov	$24, %ecx
	mov	$0x534d4150, %edx
	int	$0x15
	jc	last
	say	"\r\nE820 "
	hex	%ecx
	hex	buffer + 4
	hex	buffer
	hex	buffer + 12
	hex	buffer + 8
	hex	buffer + 16
	test	%ebx, %ebx
	jnz	next
	say	"\r\nend"
last:
	say	"\r\nbeyond "
	mov	$1000, %ebx
	mov	$0xe820, %eax
	mov	$24, %ecx
	mov	$0x534d4150, %edx
	int	$0x15
	call	say_carry
	say	"A20 "
	mov	$0x2402, %ax
	int	$0x15
	call	say_carry
	movzwl	%ax, %eax
	hex	%eax
	say	"unknown "
	mov	$0xffff, %ax
	int	$0x15
	call	say_carry
	say	"disk "
	mov	$0x0201, %ax
	int	$0x13
	call	say_carry
	movzbl	%ah, %eax
	hex	%eax
	say	"PCI "
	mov	$0xb101, %ax
	int	$0x1a
	call	say_carry

	say	"\r\nstring "
	mov	$text, %bp
	mov	$3, %cx
	mov	$0x1300, %ax
	int	$0x10
	mov	$text, %bp
	mov	$2, %cx
	mov	$0x1302, %ax
	int	$0x10

	say	"\r\nticks "
	xor	%ax, %ax
	int	$0x1a
	mov	%dx, %si
1:	sti
	hlt
	xor	%ax, %ax
	int	$0x1a
	cmp	%dx, %si
	je	1b
	say	"go on"

	say	"\r\nkeys "
1:	mov	$0x11, %ah
	int	$0x16
	jz	1b
	call	say_al
	mov	$0x10, %ah
	int	$0x16
	call	say_al
	xor	%ah, %ah
	int	$0x16
	call	say_al
	mov	$0x01, %ah
	int	$0x16
	jz	2f
	say	"another?"
2:	say	"\r\n"
	mov	command_line, %eax
	shr	$4, %eax
	mov	%ax, %ds
	cmpb	$0x72, 0
	jne	3f
	int	$0x19
3:	mov	$7, %al
	out	%al, $0xf4
4:	hlt
	jmp	4b

say_carry:
	pushfw
	jnc	1f
	say	"refused "
	popfw
	ret
1:	say	"done "
	popfw
	ret

say_inline:			/* the text behind the call */
	push	%bp
	mov	%sp, %bp
	xchg	2(%bp), %si
	push	%ds
	push	%cs
	pop	%ds
	call	say_si
	pop	%ds
	xchg	2(%bp), %si
	pop	%bp
	ret
say_si:
	push	%ax
1:	lodsb
	test	%al, %al
	jz	2f
	call	say_al
	jmp	1b
2:	pop	%ax
	ret
say_hex:			/* EAX, all of it, and a space */
	push	%cx
	mov	$8, %cx
1:	rol	$4, %eax
	push	%ax
	and	$15, %al
	add	$0x30, %al
	cmp	$0x3a, %al
	jb	2f
	add	$0x27, %al
2:	call	say_al
	pop	%ax
	loop	1b
	mov	$0x20, %al
	call	say_al
	pop	%cx
	ret
say_al:
	push	%ax
	push	%bx
	mov	$0x0e, %ah
	xor	%bx, %bx
	int	$0x10
	pop	%bx
	pop	%ax
	ret

text:	.ascii	"abcd"
buffer:	.space	24
	.org	0x800
	.ascii	"protected mode's"
