/* SPDX-License-Identifier: MIT */
/*
 * From the reset vector to the guest's first instruction. Every processor comes through here; the
 * one with the initial APIC id 0 runs the loader, the others wait for it without using any memory of
 * their own. All of this is shared memory, so every instruction may be intercepted and emulated.
 */
#include "protocol.h"

#define CODE_64 0x08
#define DATA 0x10
#define CODE_32 0x18

#define CR0_PE (1 << 0)
#define CR0_ET (1 << 4)
#define CR0_NE (1 << 5)
#define CR0_WP (1 << 16)
#define CR0_PG (1 << 31)
#define CR4_PAE (1 << 5)
#define MSR_EFER 0xc0000080
#define EFER_LME (1 << 8)

/* The first page of the slot; the monitor reads it when the launch is over. */
	.section .report, "aw"
	.global launch_report
launch_report:
	.fill	4096, 1, 0

	.section .reset_vector, "ax"
	.code16
	.global reset_vector
reset_vector:
	jmp	real_mode

/* CS has the base 0xffff0000, all other segments have 0. */
	.section .real_mode, "ax"
	.code16
real_mode:
	cli
	cld
	lgdtl	%cs:(gdt_pointer - 0xffff0000)
	mov	$(CR0_PE | CR0_ET | CR0_NE), %eax
	mov	%eax, %cr0
	ljmpl	$CODE_32, $protected_mode

	.balign 8
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* CODE_64 */
	.quad	0x00cf93000000ffff	/* DATA */
	.quad	0x00cf9b000000ffff	/* CODE_32 */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt

	.text
	.code32
protected_mode:
	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%eax, %fs
	mov	%eax, %gs
	mov	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	$page_map_level4, %eax
	mov	%eax, %cr3
	mov	$MSR_EFER, %ecx
	mov	$EFER_LME, %eax
	xor	%edx, %edx
	wrmsr
	mov	$(CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_PE), %eax
	mov	%eax, %cr0
	ljmp	$CODE_64, $long_mode

	.code64
long_mode:
	/* Nobody expects an exception here: each one ends the run at once. */
	lidt	no_exceptions(%rip)
	mov	$1, %eax
	xor	%ecx, %ecx
	cpuid
	shr	$24, %ebx
	/* Who is here; each id comes once. The loader compares with what the boot block says. */
	lock btsl %ebx, processors_here(%rip)
	jc	twice
	test	%ebx, %ebx
	jnz	wait_for_launch

	mov	$stack_top, %esp
	xor	%ebp, %ebp
	call	load
	mov	launch_entry(%rip), %r8
	mov	launch_start_info(%rip), %rdi
	mov	$(LAUNCH_CODE + trampoline - launch_code), %eax
	jmp	leave

wait_for_launch:
	pause
	cmpl	$0, launch_ready(%rip)
	je	wait_for_launch
	cmp	launch_cpus(%rip), %ebx
	jae	0f
	mov	$(LAUNCH_CODE + park - launch_code), %eax

/* To LAUNCH_CODE at RAX, with RDI and R8. All but CS is loaded anew: it would be what it is. */
leave:
	lgdt	launch_gdt_pointer(%rip)
	mov	$DATA, %ecx
	mov	%ecx, %ds
	mov	%ecx, %es
	mov	%ecx, %ss
	mov	%ecx, %fs
	mov	%ecx, %gs
	mov	$LAUNCH_TABLES, %ecx
	mov	%rcx, %cr3
	jmp	*%rax

/* The loader finds out, and says so. */
twice:
	movl	$1, processor_twice(%rip)
0:	pause
	jmp	0b

/*
 * Copied to LAUNCH_CODE, and run there, from private memory: plain instructions and OUT only, and
 * nothing that depends on where it lies. The firmware's memory goes away with the OUT.
 */
	.section .rodata.launch_code, "a"
	.balign 8
	.global launch_code, launch_code_end
launch_code:
	.quad	0			/* the GDT, which a segment register may be loaded from later */
	.quad	0x00af9b000000ffff
	.quad	0x00cf93000000ffff

trampoline:
	mov	$PORT_LAUNCH, %edx
	xor	%eax, %eax
	outb	%al, %dx
	mov	$LAUNCH_INFO, %esi
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esp, %esp
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d
	jmp	*%r8

/* RBX is which processor this is. */
park:
	mov	$(LAUNCH_INFO + LAUNCH_INFO_PARKED), %eax
	lock incl (%rax)
	mov	%ebx, %esi
	shl	$4, %ebx
	add	$LAUNCH_MAILBOX, %ebx
0:	pause
	mov	(%rbx), %rax
	test	%rax, %rax
	jz	0b
	mov	MAILBOX_ARGUMENT(%rbx), %rdi
	jmp	*%rax
launch_code_end:

	.section .rodata.pointers, "a"
	.balign 8
no_exceptions:
	.word	0
	.quad	0
	.balign 8
launch_gdt_pointer:
	.word	trampoline - launch_code - 1
	.quad	LAUNCH_CODE

/*
 * The first 4 GiB, identity-mapped with 2 MiB pages, ready-made. LAUNCH_TABLES gets a copy, with
 * other links between the tables.
 */
#define PAGE_PRESENT_WRITE 0x3
#define PAGE_ACCESSED_DIRTY 0x60
#define PAGE_LARGE 0x80

	.section .page_tables, "aw"
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
	.balign 16
	.skip	8192
stack_top:
	.balign 8
	.global processors_here
processors_here:
	.skip	32
	.section .note.GNU-stack, "", @progbits
