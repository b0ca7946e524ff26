/* SPDX-License-Identifier: MIT */
/*
 * A small BIOS for kernels that are entered in real mode (Linux boot protocol, 16-bit entry): iPXE,
 * boot loaders. It has what such programs call before they have drivers of their own: a console on
 * the first serial port, the memory map, the timer. There are no disks, no video, no PCI services.
 *
 * It lies at F000:F000, the last page below 1 MiB. The loader (pyvmm/boot/real_mode.py) fills in the
 * memory map below, and enters it at its first byte with BX = segment of the kernel's setup code,
 * DX = its stack pointer.
 *
 * Interrupt list: Ralf Brown's (INT 10h to INT 1Ah); E820: ACPI 6.5, 15.1.
 */

	.set	COM1, 0x3f8
	.set	LSR, COM1 + 5
	.set	SMAP, 0x534d4150
	.set	CARRY, 1
	.set	ZERO, 0x40

	/* BIOS data area, by segment 0 (IBM PC/AT Technical Reference). */
	.set	SERIAL_PORT, 0x400
	.set	EBDA, 0x40e
	.set	EQUIPMENT, 0x410
	.set	BASE_MEMORY, 0x413
	.set	KEY, 0x41e		/* a key that has been read and not been taken, */
	.set	HAS_KEY, 0x41f		/* and 1 if there is one */
	.set	VIDEO_MODE, 0x449
	.set	COLUMNS, 0x44a
	.set	CRTC, 0x463
	.set	TICKS, 0x46c
	.set	MIDNIGHT, 0x470
	.set	LAST_ROW, 0x484
	.set	TICKS_OF_A_DAY, 0x1800b0

	.code16
	.text
	.globl	start
start:
	jmp	init

	.org	0x10
map_entries:	.word	0		/* the loader writes from here on */
below_16m:	.word	0		/* KiB from 1 to 16 MiB, for E801 */
above_16m:	.word	0		/* 64 KiB each, for E801 */
above_1m:	.word	0		/* KiB, for 88h */
map:	.space	20 * 32
map_end:

init:
	cli
	cld
	xor	%ax, %ax
	mov	%ax, %es
	mov	%ax, %ss
	mov	$0x1000, %sp
	push	%cs
	pop	%ds

	xor	%di, %di
	mov	$256, %cx
1:	mov	$ignore, %ax
	stosw
	mov	%cs, %ax
	stosw
	loop	1b
	mov	$vectors, %si
2:	lodsb
	cmp	$0xff, %al
	je	3f
	xor	%ah, %ah
	mov	%ax, %di
	shl	$2, %di
	movsw
	jmp	2b

3:	mov	%ss, %ax		/* 0 */
	mov	%ax, %ds
	movw	$COM1, SERIAL_PORT
	movw	$0x9fc0, EBDA
	movw	$0x0220, EQUIPMENT	/* one serial port, 80 columns */
	movw	$639, BASE_MEMORY
	movw	$0, KEY
	movb	$3, VIDEO_MODE
	movw	$80, COLUMNS
	movw	$0x3d4, CRTC
	movb	$24, LAST_ROW
	movl	$0, TICKS
	movb	$0, MIDNIGHT

	mov	%dx, %si		/* the stack pointer */
	mov	%cs, %ax
	mov	%ax, %ds
	mov	$ports, %di
4:	mov	(%di), %dx
	test	%dx, %dx
	jz	5f
	mov	2(%di), %al
	out	%al, %dx
	add	$3, %di
	jmp	4b

5:	mov	%bx, %ds
	mov	%bx, %es
	mov	%bx, %fs
	mov	%bx, %gs
	mov	%bx, %ss
	mov	%si, %sp
	add	$0x20, %bx
	push	%bx
	pushw	$0
	lretw

	.macro	port number, value
	.word	\number
	.byte	\value
	.endm
ports:
	port	0x20, 0x11		/* 8259s: edges, two of them, ICW4 follows; IRQ 0 is INT 08h, */
	port	0x21, 0x08
	port	0x21, 0x04
	port	0x21, 0x01
	port	0xa0, 0x11		/* IRQ 8 is INT 70h */
	port	0xa1, 0x70
	port	0xa1, 0x02
	port	0xa1, 0x01
	port	0x21, 0xfa		/* all masked but the timer and the second 8259 */
	port	0xa1, 0xff
	port	0x43, 0x34		/* 8254: channel 0, rate generator, 18.2 Hz */
	port	0x40, 0x00
	port	0x40, 0x00
	port	COM1 + 1, 0x00		/* 16550: no interrupts, 115200 baud, 8N1, DTR and RTS; the FIFO
				   stays off: turned on it would forget what was sent ahead */
	port	COM1 + 3, 0x83
	port	COM1 + 0, 0x01
	port	COM1 + 1, 0x00
	port	COM1 + 3, 0x03
	port	COM1 + 4, 0x03
	.word	0

	.macro	vector number, handler
	.byte	\number
	.word	\handler
	.endm
vectors:
	vector	0x08, timer
	vector	0x09, irq
	vector	0x0a, irq
	vector	0x0b, irq
	vector	0x0c, irq
	vector	0x0d, irq
	vector	0x0e, irq
	vector	0x0f, irq
	vector	0x10, video
	vector	0x11, equipment
	vector	0x12, base_memory
	vector	0x13, refuse
	vector	0x14, no_port
	vector	0x15, system
	vector	0x16, keyboard
	vector	0x17, no_port
	vector	0x18, nothing_to_boot
	vector	0x19, nothing_to_boot
	vector	0x1a, clock
	vector	0x70, irq_8
	vector	0x71, irq_8
	vector	0x72, irq_8
	vector	0x73, irq_8
	vector	0x74, irq_8
	vector	0x75, irq_8
	vector	0x76, irq_8
	vector	0x77, irq_8
	.byte	0xff

irq_8:
	push	%ax
	mov	$0x20, %al
	out	%al, $0xa0
	jmp	1f
irq:
	push	%ax
1:	mov	$0x20, %al
	out	%al, $0x20
	pop	%ax
ignore:
	iretw

timer:
	push	%ax
	push	%ds
	xor	%ax, %ax
	mov	%ax, %ds
	incl	TICKS
	cmpl	$TICKS_OF_A_DAY, TICKS
	jb	1f
	movl	$0, TICKS
	incb	MIDNIGHT
1:	pop	%ds
	int	$0x1c
	mov	$0x20, %al
	out	%al, $0x20
	pop	%ax
	iretw

/* Ends of services: the flags that the caller gets are those on the stack. */
succeed:
	push	%bp
	mov	%sp, %bp
	andb	$~CARRY, 6(%bp)
	pop	%bp
	iretw
refuse:					/* AH 1 is "invalid" to INT 13h */
	mov	$0x01, %ah
	jmp	fail
unknown:
	mov	$0x86, %ah
fail:
	push	%bp
	mov	%sp, %bp
	orb	$CARRY, 6(%bp)
	pop	%bp
	iretw
no_port:				/* "timed out" */
	mov	$0x80, %ah
	iretw

/* INT 10h. Characters go to the serial port as they come; attributes and places nowhere. */
video:
	cmp	$0x0e, %ah
	je	teletype
	cmp	$0x13, %ah
	je	string
	cmp	$0x03, %ah
	je	cursor
	cmp	$0x08, %ah
	je	character
	cmp	$0x0f, %ah
	jne	ignore
	mov	$80 << 8 | 3, %ax
	xor	%bh, %bh
	iretw
teletype:
	call	put
	iretw
cursor:
	mov	$0x0607, %cx
	xor	%dx, %dx
	iretw
character:
	mov	$0x0720, %ax		/* a space, grey on black */
	iretw
string:					/* CX characters at ES:BP; AL bit 1: an attribute behind each */
	push	%ax
	push	%cx
	push	%bp
	mov	%al, %ah
	jcxz	2f
1:	mov	%es:(%bp), %al
	call	put
	inc	%bp
	test	$2, %ah
	jz	3f
	inc	%bp
3:	loop	1b
2:	pop	%bp
	pop	%cx
	pop	%ax
	iretw

/* Send AL. A port that never gets ready is given up. */
put:
	push	%ax
	push	%cx
	push	%dx
	mov	$LSR, %dx
	mov	%al, %ah
	xor	%cx, %cx
1:	in	%dx, %al
	test	$0x20, %al
	loopz	1b
	mov	%ah, %al
	mov	$COM1, %dx
	out	%al, %dx
	pop	%dx
	pop	%cx
	pop	%ax
	ret

equipment:
	mov	$0x0220, %ax
	iretw
base_memory:
	mov	$639, %ax
	iretw

/* INT 15h. */
system:
	cmp	$0xe820, %ax
	je	memory_map
	cmp	$0xe801, %ax
	je	memory_sizes
	cmp	$0x88, %ah
	je	extended_memory
	cmp	$0x24, %ah
	jne	unknown
	cmp	$1, %al			/* A20 is on, and stays it */
	jbe	1f
	cmp	$3, %al
	ja	unknown
	mov	$3, %bx
	mov	$1, %al
1:	xor	%ah, %ah
	jmp	succeed
memory_map:
	cmp	$SMAP, %edx
	jne	unknown
	cmp	$20, %ecx
	jb	unknown
	push	%si
	push	%di
	movzwl	%cs:map_entries, %eax
	cmp	%eax, %ebx
	jae	2f
	imul	$20, %bx, %si
	add	$map, %si
	mov	$10, %cx
	cld
	rep movsw %cs:(%si), %es:(%di)
	inc	%ebx
	cmp	%eax, %ebx
	jb	1f
	xor	%ebx, %ebx
1:	mov	$SMAP, %eax
	mov	$20, %ecx
	pop	%di
	pop	%si
	jmp	succeed
2:	pop	%di
	pop	%si
	jmp	unknown
memory_sizes:
	mov	%cs:below_16m, %ax
	mov	%cs:above_16m, %bx
	mov	%ax, %cx
	mov	%bx, %dx
	jmp	succeed
extended_memory:
	mov	%cs:above_1m, %ax
	jmp	succeed

/* INT 16h: keys are what the serial port receives; they have no scan codes. */
keyboard:
	push	%bp
	mov	%sp, %bp
	push	%ds
	push	%dx
	xor	%dx, %dx
	mov	%dx, %ds
	and	$~0x10, %ah		/* 10h and 11h are 00h and 01h of larger keyboards */
	jz	wait_for_key
	cmp	$1, %ah
	je	look_for_key
	xor	%ax, %ax		/* 02h: no shift key is held */
	jmp	3f
wait_for_key:
	call	poll
	jnz	1f
	sti
	hlt				/* until the timer ticks */
	cli
	jmp	wait_for_key
1:	mov	KEY, %al
	movw	$0, KEY
	jmp	2f
look_for_key:
	andb	$~ZERO, 6(%bp)
	call	poll
	mov	KEY, %al
	jnz	2f
	orb	$ZERO, 6(%bp)
2:	xor	%ah, %ah
3:	pop	%dx
	pop	%ds
	pop	%bp
	iretw

/* Take a key from the serial port if there is none yet; ZF clear: there is one. DS is 0. */
poll:
	cmpb	$0, HAS_KEY
	jnz	1f
	push	%ax
	mov	$LSR, %dx
	in	%dx, %al
	test	$1, %al
	jz	2f
	mov	$COM1, %dx
	in	%dx, %al
	mov	%al, KEY
	movb	$1, HAS_KEY
2:	pop	%ax
	cmpb	$0, HAS_KEY
1:	ret

/* INT 1Ah: ticks since the start; no real-time clock, no PCI BIOS. */
clock:
	cmp	$1, %ah
	ja	unknown
	push	%ds
	pushw	$0
	pop	%ds
	je	1f
	mov	TICKS, %dx
	mov	TICKS + 2, %cx
	mov	MIDNIGHT, %al
	jmp	2f
1:	mov	%dx, TICKS
	mov	%cx, TICKS + 2
2:	movb	$0, MIDNIGHT
	pop	%ds
	xor	%ah, %ah
	jmp	succeed

/* INT 18h, 19h: the program has no more to do, and there is nothing else to boot. */
nothing_to_boot:
	mov	$message, %si
1:	mov	%cs:(%si), %al
	test	%al, %al
	jz	reset
	call	put
	inc	%si
	jmp	1b
reset:
	mov	$0xfe, %al		/* 8042: pulse the reset line */
	out	%al, $0x64
1:	hlt
	jmp	1b
message:
	.asciz	"\r\nNothing else to boot\r\n"

	.org	0xff0			/* where a processor starts, and programs jump to reset */
	ljmp	$0xf000, $reset
	.org	0xffe
	.byte	0xfc			/* model: PC/AT */
	.byte	0
