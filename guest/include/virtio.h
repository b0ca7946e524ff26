/* SPDX-License-Identifier: MIT */
/* A virtio block device over MMIO (virtio 1.2, sections 2.7, 4.2 and 5.2). */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

/* Where pyvmm has the registers, and the 8259A's input. */
#define VIRTIO_GPA 0xfef00000
#define VIRTIO_IRQ 5

#define VIRTIO_MAGIC 0x74726976
#define VIRTIO_VERSION 2
#define VIRTIO_BLOCK 2

#define REG_MAGIC 0x000
#define REG_VERSION 0x004
#define REG_DEVICE_ID 0x008
#define REG_DEVICE_FEATURES 0x010
#define REG_DEVICE_FEATURES_SELECT 0x014
#define REG_DRIVER_FEATURES 0x020
#define REG_DRIVER_FEATURES_SELECT 0x024
#define REG_QUEUE_SELECT 0x030
#define REG_QUEUE_SIZE_MAX 0x034
#define REG_QUEUE_SIZE 0x038
#define REG_QUEUE_READY 0x044
#define REG_QUEUE_NOTIFY 0x050
#define REG_INTERRUPT_STATUS 0x060
#define REG_INTERRUPT_ACK 0x064
#define REG_STATUS 0x070
#define REG_QUEUE_DESCRIPTORS 0x080
#define REG_QUEUE_DRIVER 0x090
#define REG_QUEUE_DEVICE 0x0a0
#define REG_CAPACITY 0x100

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8
#define STATUS_NEEDS_RESET 0x40

/* The second 32 feature bits. */
#define FEATURE_VERSION_1 1

#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2

#define BLOCK_IN 0
#define BLOCK_OUT 1
#define BLOCK_FLUSH 4
#define BLOCK_GET_ID 8
#define BLOCK_OK 0
#define BLOCK_IO_ERROR 1
#define BLOCK_UNSUPPORTED 2
#define SECTOR_SIZE 512

#endif
