# SPDX-License-Identifier: MIT
"""Every ioctl of KVM that this project issues: one declaration each.

The request numbers are written out instead of computed, so that a test can compare the size that
each encodes with the size of its argument's type. `IoctlSpec.section` is the section of the
kernel's Documentation/virt/kvm/api.rst that describes it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Direction(enum.IntEnum):
    """Direction of the argument; the values are those of the request number's two top bits."""

    NONE = 0
    """No argument, or one passed by value."""
    WRITE = 1
    """The kernel reads it."""
    READ = 2
    """The kernel writes it."""
    READ_WRITE = 3


class FdKind(enum.Enum):
    """Kind of fd that an ioctl is issued on."""

    SYSTEM = "KVM"
    VM = "VM"
    VCPU = "vCPU"
    GUEST_MEMFD = "guest_memfd"
    DEVICE = "device"


class IoctlSpec(NamedTuple):
    """One ioctl.

    `argument` is the C type that the argument points to, "value" for an integer passed by value,
    "" for none.
    """

    name: str
    number: int
    direction: Direction
    argument: str
    kind: FdKind
    section: str


ALL: dict[str, IoctlSpec] = {}
"""By name."""


def _ioctl(  # noqa: PLR0917 - a table's row
    name: str, number: int, direction: Direction, argument: str, kind: FdKind, section: str
) -> IoctlSpec:
    assert name not in ALL, name
    spec = ALL[name] = IoctlSpec(name, number, direction, argument, kind, section)
    return spec


NONE, WRITE, READ, READ_WRITE = Direction

# System: the fd of /dev/kvm.
GET_API_VERSION = _ioctl("KVM_GET_API_VERSION", 0x0000AE00, NONE, "", FdKind.SYSTEM, "4.1")
CREATE_VM = _ioctl("KVM_CREATE_VM", 0x0000AE01, NONE, "value", FdKind.SYSTEM, "4.2")
GET_MSR_INDEX_LIST = _ioctl(
    "KVM_GET_MSR_INDEX_LIST", 0xC004AE02, READ_WRITE, "struct kvm_msr_list", FdKind.SYSTEM, "4.3"
)
GET_MSR_FEATURE_INDEX_LIST = _ioctl(
    "KVM_GET_MSR_FEATURE_INDEX_LIST",
    0xC004AE0A,
    READ_WRITE,
    "struct kvm_msr_list",
    FdKind.SYSTEM,
    "4.3",
)
CHECK_EXTENSION = _ioctl(
    "KVM_CHECK_EXTENSION", 0x0000AE03, NONE, "value", FdKind.SYSTEM, "4.4, on a VM too"
)
GET_VCPU_MMAP_SIZE = _ioctl("KVM_GET_VCPU_MMAP_SIZE", 0x0000AE04, NONE, "", FdKind.SYSTEM, "4.5")
GET_SUPPORTED_CPUID = _ioctl(
    "KVM_GET_SUPPORTED_CPUID", 0xC008AE05, READ_WRITE, "struct kvm_cpuid2", FdKind.SYSTEM, "4.46"
)
GET_EMULATED_CPUID = _ioctl(
    "KVM_GET_EMULATED_CPUID", 0xC008AE09, READ_WRITE, "struct kvm_cpuid2", FdKind.SYSTEM, "4.88"
)

# VM.
CREATE_VCPU = _ioctl("KVM_CREATE_VCPU", 0x0000AE41, NONE, "value", FdKind.VM, "4.7")
GET_DIRTY_LOG = _ioctl(
    "KVM_GET_DIRTY_LOG", 0x4010AE42, WRITE, "struct kvm_dirty_log", FdKind.VM, "4.8"
)
SET_USER_MEMORY_REGION = _ioctl(
    "KVM_SET_USER_MEMORY_REGION",
    0x4020AE46,
    WRITE,
    "struct kvm_userspace_memory_region",
    FdKind.VM,
    "4.35",
)
SET_TSS_ADDR = _ioctl("KVM_SET_TSS_ADDR", 0x0000AE47, NONE, "value", FdKind.VM, "4.36")
SET_IDENTITY_MAP_ADDR = _ioctl(
    "KVM_SET_IDENTITY_MAP_ADDR", 0x4008AE48, WRITE, "uint64_t", FdKind.VM, "4.41"
)
SET_USER_MEMORY_REGION2 = _ioctl(
    "KVM_SET_USER_MEMORY_REGION2",
    0x40A0AE49,
    WRITE,
    "struct kvm_userspace_memory_region2",
    FdKind.VM,
    "4.140",
)
CREATE_IRQCHIP = _ioctl("KVM_CREATE_IRQCHIP", 0x0000AE60, NONE, "", FdKind.VM, "4.24")
IRQ_LINE = _ioctl("KVM_IRQ_LINE", 0x4008AE61, WRITE, "struct kvm_irq_level", FdKind.VM, "4.25")
GET_IRQCHIP = _ioctl(
    "KVM_GET_IRQCHIP", 0xC208AE62, READ_WRITE, "struct kvm_irqchip", FdKind.VM, "4.26"
)
SET_IRQCHIP = _ioctl("KVM_SET_IRQCHIP", 0x8208AE63, READ, "struct kvm_irqchip", FdKind.VM, "4.27")
REGISTER_COALESCED_MMIO = _ioctl(
    "KVM_REGISTER_COALESCED_MMIO",
    0x4010AE67,
    WRITE,
    "struct kvm_coalesced_mmio_zone",
    FdKind.VM,
    "4.116",
)
UNREGISTER_COALESCED_MMIO = _ioctl(
    "KVM_UNREGISTER_COALESCED_MMIO",
    0x4010AE68,
    WRITE,
    "struct kvm_coalesced_mmio_zone",
    FdKind.VM,
    "4.116",
)
SET_GSI_ROUTING = _ioctl(
    "KVM_SET_GSI_ROUTING", 0x4008AE6A, WRITE, "struct kvm_irq_routing", FdKind.VM, "4.52"
)
IRQFD = _ioctl("KVM_IRQFD", 0x4020AE76, WRITE, "struct kvm_irqfd", FdKind.VM, "4.75")
CREATE_PIT2 = _ioctl(
    "KVM_CREATE_PIT2", 0x4040AE77, WRITE, "struct kvm_pit_config", FdKind.VM, "4.71"
)
SET_BOOT_CPU_ID = _ioctl("KVM_SET_BOOT_CPU_ID", 0x0000AE78, NONE, "value", FdKind.VM, "4.40")
IOEVENTFD = _ioctl("KVM_IOEVENTFD", 0x4040AE79, WRITE, "struct kvm_ioeventfd", FdKind.VM, "4.59")
SET_CLOCK = _ioctl("KVM_SET_CLOCK", 0x4030AE7B, WRITE, "struct kvm_clock_data", FdKind.VM, "4.30")
GET_CLOCK = _ioctl("KVM_GET_CLOCK", 0x8030AE7C, READ, "struct kvm_clock_data", FdKind.VM, "4.29")
GET_PIT2 = _ioctl("KVM_GET_PIT2", 0x8070AE9F, READ, "struct kvm_pit_state2", FdKind.VM, "4.72")
SET_PIT2 = _ioctl("KVM_SET_PIT2", 0x4070AEA0, WRITE, "struct kvm_pit_state2", FdKind.VM, "4.73")
ENABLE_CAP = _ioctl(
    "KVM_ENABLE_CAP", 0x4068AEA3, WRITE, "struct kvm_enable_cap", FdKind.VM, "4.37, on a vCPU too"
)
SIGNAL_MSI = _ioctl("KVM_SIGNAL_MSI", 0x4020AEA5, WRITE, "struct kvm_msi", FdKind.VM, "4.70")
CLEAR_DIRTY_LOG = _ioctl(
    "KVM_CLEAR_DIRTY_LOG", 0xC018AEC0, READ_WRITE, "struct kvm_clear_dirty_log", FdKind.VM, "4.117"
)
X86_SET_MSR_FILTER = _ioctl(
    "KVM_X86_SET_MSR_FILTER", 0x4188AEC6, WRITE, "struct kvm_msr_filter", FdKind.VM, "4.126"
)
RESET_DIRTY_RINGS = _ioctl("KVM_RESET_DIRTY_RINGS", 0x0000AEC7, NONE, "", FdKind.VM, "8.29")
GET_STATS_FD = _ioctl("KVM_GET_STATS_FD", 0x0000AECE, NONE, "", FdKind.VM, "4.133, on a vCPU too")
SET_MEMORY_ATTRIBUTES = _ioctl(
    "KVM_SET_MEMORY_ATTRIBUTES",
    0x4020AED2,
    WRITE,
    "struct kvm_memory_attributes",
    FdKind.VM,
    "4.141",
)
CREATE_GUEST_MEMFD = _ioctl(
    "KVM_CREATE_GUEST_MEMFD",
    0xC040AED4,
    READ_WRITE,
    "struct kvm_create_guest_memfd",
    FdKind.VM,
    "4.142",
)
CREATE_DEVICE = _ioctl(
    "KVM_CREATE_DEVICE", 0xC00CAEE0, READ_WRITE, "struct kvm_create_device", FdKind.VM, "4.79"
)

# Devices, and attributes of VMs and vCPUs.
SET_DEVICE_ATTR = _ioctl(
    "KVM_SET_DEVICE_ATTR", 0x4018AEE1, WRITE, "struct kvm_device_attr", FdKind.DEVICE, "4.80"
)
GET_DEVICE_ATTR = _ioctl(
    "KVM_GET_DEVICE_ATTR", 0x4018AEE2, WRITE, "struct kvm_device_attr", FdKind.DEVICE, "4.80"
)
HAS_DEVICE_ATTR = _ioctl(
    "KVM_HAS_DEVICE_ATTR", 0x4018AEE3, WRITE, "struct kvm_device_attr", FdKind.DEVICE, "4.81"
)

# vCPU.
RUN = _ioctl("KVM_RUN", 0x0000AE80, NONE, "", FdKind.VCPU, "4.10")
GET_REGS = _ioctl("KVM_GET_REGS", 0x8090AE81, READ, "struct kvm_regs", FdKind.VCPU, "4.11")
SET_REGS = _ioctl("KVM_SET_REGS", 0x4090AE82, WRITE, "struct kvm_regs", FdKind.VCPU, "4.12")
GET_SREGS = _ioctl("KVM_GET_SREGS", 0x8138AE83, READ, "struct kvm_sregs", FdKind.VCPU, "4.13")
SET_SREGS = _ioctl("KVM_SET_SREGS", 0x4138AE84, WRITE, "struct kvm_sregs", FdKind.VCPU, "4.14")
TRANSLATE = _ioctl(
    "KVM_TRANSLATE", 0xC018AE85, READ_WRITE, "struct kvm_translation", FdKind.VCPU, "4.15"
)
INTERRUPT = _ioctl("KVM_INTERRUPT", 0x4004AE86, WRITE, "struct kvm_interrupt", FdKind.VCPU, "4.16")
GET_MSRS = _ioctl("KVM_GET_MSRS", 0xC008AE88, READ_WRITE, "struct kvm_msrs", FdKind.VCPU, "4.18")
SET_MSRS = _ioctl("KVM_SET_MSRS", 0x4008AE89, WRITE, "struct kvm_msrs", FdKind.VCPU, "4.19")
SET_SIGNAL_MASK = _ioctl(
    "KVM_SET_SIGNAL_MASK", 0x4004AE8B, WRITE, "struct kvm_signal_mask", FdKind.VCPU, "4.21"
)
GET_FPU = _ioctl("KVM_GET_FPU", 0x81A0AE8C, READ, "struct kvm_fpu", FdKind.VCPU, "4.22")
SET_FPU = _ioctl("KVM_SET_FPU", 0x41A0AE8D, WRITE, "struct kvm_fpu", FdKind.VCPU, "4.23")
GET_LAPIC = _ioctl("KVM_GET_LAPIC", 0x8400AE8E, READ, "struct kvm_lapic_state", FdKind.VCPU, "4.57")
SET_LAPIC = _ioctl(
    "KVM_SET_LAPIC", 0x4400AE8F, WRITE, "struct kvm_lapic_state", FdKind.VCPU, "4.58"
)
SET_CPUID2 = _ioctl("KVM_SET_CPUID2", 0x4008AE90, WRITE, "struct kvm_cpuid2", FdKind.VCPU, "4.20")
GET_CPUID2 = _ioctl(
    "KVM_GET_CPUID2", 0xC008AE91, READ_WRITE, "struct kvm_cpuid2", FdKind.VCPU, "4.20"
)
GET_MP_STATE = _ioctl(
    "KVM_GET_MP_STATE", 0x8004AE98, READ, "struct kvm_mp_state", FdKind.VCPU, "4.38"
)
SET_MP_STATE = _ioctl(
    "KVM_SET_MP_STATE", 0x4004AE99, WRITE, "struct kvm_mp_state", FdKind.VCPU, "4.39"
)
NMI = _ioctl("KVM_NMI", 0x0000AE9A, NONE, "", FdKind.VCPU, "4.64")
KVMCLOCK_CTRL = _ioctl("KVM_KVMCLOCK_CTRL", 0x0000AEAD, NONE, "", FdKind.VCPU, "4.70")
SET_GUEST_DEBUG = _ioctl(
    "KVM_SET_GUEST_DEBUG", 0x4048AE9B, WRITE, "struct kvm_guest_debug", FdKind.VCPU, "4.87"
)
GET_VCPU_EVENTS = _ioctl(
    "KVM_GET_VCPU_EVENTS", 0x8040AE9F, READ, "struct kvm_vcpu_events", FdKind.VCPU, "4.31"
)
SET_VCPU_EVENTS = _ioctl(
    "KVM_SET_VCPU_EVENTS", 0x4040AEA0, WRITE, "struct kvm_vcpu_events", FdKind.VCPU, "4.32"
)
GET_DEBUGREGS = _ioctl(
    "KVM_GET_DEBUGREGS", 0x8080AEA1, READ, "struct kvm_debugregs", FdKind.VCPU, "4.33"
)
SET_DEBUGREGS = _ioctl(
    "KVM_SET_DEBUGREGS", 0x4080AEA2, WRITE, "struct kvm_debugregs", FdKind.VCPU, "4.34"
)
GET_NESTED_STATE = _ioctl(
    "KVM_GET_NESTED_STATE", 0xC080AEBE, READ_WRITE, "struct kvm_nested_state", FdKind.VCPU, "4.114"
)
SET_NESTED_STATE = _ioctl(
    "KVM_SET_NESTED_STATE", 0x4080AEBF, WRITE, "struct kvm_nested_state", FdKind.VCPU, "4.115"
)
SET_TSC_KHZ = _ioctl("KVM_SET_TSC_KHZ", 0x0000AEA2, NONE, "value", FdKind.VCPU, "4.55")
GET_TSC_KHZ = _ioctl("KVM_GET_TSC_KHZ", 0x0000AEA3, NONE, "", FdKind.VCPU, "4.56")
GET_XSAVE = _ioctl("KVM_GET_XSAVE", 0x9000AEA4, READ, "struct kvm_xsave", FdKind.VCPU, "4.42")
SET_XSAVE = _ioctl("KVM_SET_XSAVE", 0x5000AEA5, WRITE, "struct kvm_xsave", FdKind.VCPU, "4.43")
GET_XSAVE2 = _ioctl("KVM_GET_XSAVE2", 0x9000AECF, READ, "struct kvm_xsave", FdKind.VCPU, "4.134")
GET_XCRS = _ioctl("KVM_GET_XCRS", 0x8188AEA6, READ, "struct kvm_xcrs", FdKind.VCPU, "4.44")
SET_XCRS = _ioctl("KVM_SET_XCRS", 0x4188AEA7, WRITE, "struct kvm_xcrs", FdKind.VCPU, "4.45")
GET_SREGS2 = _ioctl("KVM_GET_SREGS2", 0x8140AECC, READ, "struct kvm_sregs2", FdKind.VCPU, "4.131")
SET_SREGS2 = _ioctl("KVM_SET_SREGS2", 0x4140AECD, WRITE, "struct kvm_sregs2", FdKind.VCPU, "4.132")
PRE_FAULT_MEMORY = _ioctl(
    "KVM_PRE_FAULT_MEMORY",
    0xC040AED5,
    READ_WRITE,
    "struct kvm_pre_fault_memory",
    FdKind.VCPU,
    "4.143",
)
