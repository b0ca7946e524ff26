/* SPDX-License-Identifier: MIT */
/* Where another CPU leaves the firmware's loop: RDI = its struct cpu, RSI = its number. */
#include "segments.h"

	.section .text.smp_entry, "ax"
	.global smp_entry
smp_entry:
	cld
	mov	(%rdi), %rsp
	load_image_tables
	xor	%ebp, %ebp
	call	smp_start

	.section .note.GNU-stack, "", @progbits
