/* SPDX-License-Identifier: MIT */
/*
 * The guest of the conversion benchmarks: 32-bit protected mode without paging, at GPA 0. Both sides
 * run the same bytes; the entries are at fixed offsets. It runs for ever and marks the end of each
 * stretch by a port write, which is where the monitor looks at the clock.
 *
 *   ecx  pages of 4 KiB in one range        edi  GPA of the first range
 *   ebp  GPA behind the last range          esp  bytes from one touch to the next; 0: no touches
 *
 * There is no stack. A hypercall that is refused ends in a write to FAILED.
 */
    .code32
    .set MARK, 0xf4
    .set FAILED, 0xf5
    .set MAP_GPA_RANGE, 12              /* KVM_HC_MAP_GPA_RANGE: rbx GPA, rcx pages, rdx attributes */
    .set TO_PRIVATE, 0x10
    .set TO_SHARED, 0

    .macro convert attributes
    mov $MAP_GPA_RANGE, %eax
    mov $\attributes, %edx
    vmmcall
    test %eax, %eax
    jnz failed
    .endm

    .macro next_range again
    mov %ecx, %eax
    shl $12, %eax
    add %eax, %ebx
    cmp %ebp, %ebx
    jb \again
    .endm

    /* A byte every so many, after ranges were converted. */
    .macro touch_all
    mov %edi, %ebx
    test %esp, %esp
    jz 8f
7:  movb $1, (%ebx)
    add %esp, %ebx
    cmp %ebp, %ebx
    jb 7b
8:
    .endm

/* All ranges to private, MARK, touch, MARK, all to shared, MARK, touch, MARK. */
sweeps:
    out %al, $MARK
    mov %edi, %ebx
0:  convert TO_PRIVATE
    next_range 0b
    out %al, $MARK
    touch_all
    out %al, $MARK
    mov %edi, %ebx
1:  convert TO_SHARED
    next_range 1b
    out %al, $MARK
    touch_all
    jmp sweeps

/* Each range to private and back to shared before the next one; MARK after the last. */
    .org 0x100
back_and_forth:
    out %al, $MARK
    mov %edi, %ebx
0:  convert TO_PRIVATE
    convert TO_SHARED
    next_range 0b
    jmp back_and_forth

/* Touch the first byte of each range; MARK after the last. */
    .org 0x200
touches:
    out %al, $MARK
    mov %edi, %ebx
0:  movb $1, (%ebx)
    next_range 0b
    jmp touches

failed:
    out %al, $FAILED
    jmp failed
