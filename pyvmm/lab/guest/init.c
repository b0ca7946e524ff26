/* SPDX-License-Identifier: MIT */
/*
 * The lab's first process. Makes the host's file system the root, read-only, with scratch where
 * programs expect to write; then runs commands for the host (serve.c). It lives in an initial RAM
 * file system that pyvmm/lab/initramfs.py writes, with its configuration in /lab.conf:
 * "TAG\0PATH\0" for each folder that is mounted for itself. Tags that begin with w are writable;
 * with r, read-only and fresh (what the scratch hides); with c, read-only and cached without asking the host again: what rarely changes and is read often.
 * Everything else is looked up anew each time, so that a lab that stays up sees what the host does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "lab.h"

/* <linux/kvm.h> of Debian 12 is older than these (api.rst 8.36, 4.140). */
#define CAP_VM_TYPES 235
#define CAP_MEMORY_ATTRIBUTES 233
#define VM_TYPE_SW_PROTECTED 1
#define MEMORY_ATTRIBUTE_PRIVATE 8
/* Older still than these (api.rst 4.142): eight words, size and flags first; and the ioctl of a
 * guest_memfd that keeps the attributes itself, as posted, with sixteen. */
#define CREATE_GUEST_MEMFD _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xd4, 8 * sizeof(uint64_t))
#define SET_MEMORY_ATTRIBUTES2 _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xd2, 16 * sizeof(uint64_t))

#define ROOT "/root"
/* msize: as much as virtio-9p carries in one request. */
#define TRANSPORT "trans=virtio,version=9p2000.L,msize=512000"

uint32_t kernel_facts;

static void say(const char *format, ...)
{
	va_list arguments;

	fputs("pyvmm-lab: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
}

/* The lab ends here: QEMU, told not to reboot, exits, and the last line is in its log. */
_Noreturn void give_up(const char *what)
{
	say("cannot %s: %s", what, strerror(errno));
	sync();
	usleep(20000);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void must_mount(const char *source, const char *target, const char *type,
		       unsigned long flags, const char *data)
{
	if (mount(source, target, type, flags, data) < 0) {
		char what[PATH_MAX + 64];

		snprintf(what, sizeof(what), "mount %s on %s", type, target);
		give_up(what);
	}
}

static void may_mount(const char *type, const char *target, unsigned long flags, const char *data)
{
	if (mount(type, target, type, flags, data) < 0)
		say("no %s on %s: %s", type, target, strerror(errno));
}

/* What the host has in `path` stays to be seen; changes go to memory and are lost with the lab. */
static void scratch(const char *name, const char *path)
{
	char target[64], data[256];

	snprintf(target, sizeof(target), "/scratch/%s", name);
	mkdir(target, 0755);
	snprintf(target, sizeof(target), "/scratch/%s/upper", name);
	mkdir(target, 01777);
	chmod(target, 01777);
	snprintf(target, sizeof(target), "/scratch/%s/work", name);
	mkdir(target, 0755);
	snprintf(data, sizeof(data), "lowerdir=" ROOT "%s,upperdir=/scratch/%s/upper,"
		 "workdir=/scratch/%s/work", path, name, name);
	snprintf(target, sizeof(target), ROOT "%s", path);
	if (mount("scratch", target, "overlay", 0, data) == 0) {
		kernel_facts |= FACT_SCRATCH_OVERLAY;
		return;
	}
	say("no overlay on %s (%s): it starts empty", path, strerror(errno));
	may_mount("tmpfs", target, MS_NOSUID | MS_NODEV, "mode=1777");
}

static void mount_root(void)
{
	mkdir(ROOT, 0755);
	mkdir("/scratch", 0755);
	must_mount("root", ROOT, "9p", MS_RDONLY, TRANSPORT ",cache=readahead");
	must_mount("scratch", "/scratch", "tmpfs", 0, "mode=0755");
	must_mount("devtmpfs", ROOT "/dev", "devtmpfs", MS_NOSUID, NULL);
	mkdir(ROOT "/dev/pts", 0755);
	mkdir(ROOT "/dev/shm", 01777);
	may_mount("devpts", ROOT "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
	may_mount("tmpfs", ROOT "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	must_mount("proc", ROOT "/proc", "proc", 0, NULL);
	must_mount("sysfs", ROOT "/sys", "sysfs", 0, NULL);
	may_mount("debugfs", ROOT "/sys/kernel/debug", 0, NULL);
	may_mount("tmpfs", ROOT "/run", MS_NOSUID | MS_NODEV, "mode=0755");
	scratch("tmp", "/tmp");
	scratch("vartmp", "/var/tmp");
	/* Where udev would make them. */
	(void)!symlink("/proc/self/fd", ROOT "/dev/fd");
	(void)!symlink("/proc/self/fd/0", ROOT "/dev/stdin");
	(void)!symlink("/proc/self/fd/1", ROOT "/dev/stdout");
	(void)!symlink("/proc/self/fd/2", ROOT "/dev/stderr");
	if (access(ROOT "/dev/net/tun", F_OK) == 0)
		chmod(ROOT "/dev/net/tun", 0666);
}

/* The folders on the way to `path`, and itself: where scratch hides what the host has. */
static void make_path(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(path, 0755);
		*slash = '/';
	}
	mkdir(path, 0755);
}

static void mount_folders(void)
{
	static char configuration[65536];
	int fd = open("/lab.conf", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, configuration, sizeof(configuration) - 1);
	char *cursor = configuration;

	close(fd);
	while (length > 0 && cursor < configuration + length) {
		char *path = cursor + strlen(cursor) + 1;
		char target[PATH_MAX + sizeof(ROOT)];

		snprintf(target, sizeof(target), ROOT "%s", path);
		make_path(target);
		if (cursor[0] == 'w')
			must_mount(cursor, target, "9p", 0, TRANSPORT ",cache=mmap");
		else if (cursor[0] == 'r')
			must_mount(cursor, target, "9p", MS_RDONLY, TRANSPORT ",cache=readahead");
		else
			must_mount(cursor, target, "9p", MS_RDONLY, TRANSPORT ",cache=loose");
		cursor = path + strlen(path) + 1;
	}
}

static void enter_root(void)
{
	if (chdir(ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0)
		give_up("enter the root file system");
}

static void bring_up_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		say("no loopback interface: %s", strerror(errno));
	close(fd);
}

/*
 * No program, and so no vCPU, runs on CPU 0: QEMU's TCG loses flags of that one while another CPU
 * restores x87 state, among them "nested paging is on" (docs/decisions/0008-boot-cpu.md).
 */
static void leave_boot_cpu(void)
{
	cpu_set_t others;

	if (sched_getaffinity(0, sizeof(others), &others) < 0)
		give_up("count the CPUs");
	CPU_CLR(0, &others);
	if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof(others), &others) < 0)
		give_up("leave the boot CPU");
}

/*
 * Attributes are the VM's, or those of its files: a parameter of kvm chooses. The number of the
 * capability of the latter is not settled; a file that has no such ioctl says so.
 */
static bool files_have_attributes(int kvm)
{
	uint64_t creation[8] = { 4096 }, empty[16] = { 0 };
	bool have = false;
	int vm = ioctl(kvm, KVM_CREATE_VM, VM_TYPE_SW_PROTECTED);
	int file;

	if (vm < 0)
		return false;
	file = ioctl(vm, CREATE_GUEST_MEMFD, creation);
	if (file >= 0) {
		have = ioctl(file, SET_MEMORY_ATTRIBUTES2, empty) < 0 && errno == EINVAL;
		close(file);
	}
	close(vm);
	return have;
}

static void look_at_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return;
	kernel_facts |= FACT_KVM;
	if (ioctl(fd, KVM_CHECK_EXTENSION, CAP_VM_TYPES) & (1 << VM_TYPE_SW_PROTECTED))
		kernel_facts |= FACT_PRIVATE_VM;
	if (ioctl(fd, KVM_CHECK_EXTENSION, CAP_MEMORY_ATTRIBUTES) & MEMORY_ATTRIBUTE_PRIVATE ||
	    files_have_attributes(fd))
		kernel_facts |= FACT_MEMORY_ATTRIBUTES;
	close(fd);
}

static void say_hello(void)
{
	struct utsname name;
	unsigned char payload[8 + sizeof(name.release)];
	uint32_t words[2] = { WIRE_VERSION, kernel_facts };
	size_t length;

	uname(&name);
	length = strlen(name.release);
	memcpy(payload, words, sizeof(words));
	memcpy(payload + sizeof(words), name.release, length);
	port_send(FRAME_HELLO, 0, 0, payload, sizeof(words) + length);
}

int main(void)
{
	umask(0);
	leave_boot_cpu();
	mount_root();
	mount_folders();
	enter_root();
	sethostname("lab", 3);
	bring_up_loopback();
	look_at_kvm();
	port_open("pyvmm.lab");
	say_hello();
	serve();
}
