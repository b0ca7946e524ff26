/* Selectors of the GDT in entry/pvh.S; for C and the assembler. */
#ifndef GUEST_SEGMENTS_H
#define GUEST_SEGMENTS_H

#define KERNEL_CS 0x08
#define KERNEL_DS 0x10
#define USER_DS 0x1b
#define USER_CS 0x23
#define TASK 0x28

#endif
