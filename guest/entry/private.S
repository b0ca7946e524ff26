/* SPDX-License-Identifier: MIT */
/*
 * The private entry: where the firmware goes when all memory has become private. 64-bit mode, the
 * first 4 GiB mapped one to one, RDI = struct hvm_start_info, RSI = struct launch_info. Control
 * registers, model-specific registers and CPUID are the firmware's work: after it, no more of them.
 */
#include "protocol.h"
#include "segments.h"

	.section .note.pyvmm, "a", @note
	.balign 4
	.long 6, 8, NOTE_PYVMM_PRIVATE_ENTRY
	.asciz "pyvmm"
	.balign 4
	.quad private_entry

	.section .text.private_entry, "ax"
	.global private_entry
private_entry:
	cld
	mov	$stack_top, %esp
	load_image_tables
	xor	%ebp, %ebp
	call	guest_start

	.section .note.GNU-stack, "", @progbits
