/* Makes calls that anyone may make and the sidecar never does, and prints the name and the errno of each. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *name, long result) { printf("%s %d\n", name, result == -1 ? errno : 0); }

int main(void) {
    int number;
    tell("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
    tell("memfd_create", syscall(SYS_memfd_create, "x", 0));
    tell("personality", syscall(SYS_personality, 0xffffffff));
    tell("unshare", syscall(SYS_unshare, 0));
    tell("setpriority", syscall(SYS_setpriority, 0, 0, 19));
    tell("shmget", syscall(SYS_shmget, 0, 4096, 01600));
    tell("executable-memory", (long)mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    tell("netlink-uevents", socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT));
    tell("vsock", socket(40 /* AF_VSOCK */, SOCK_STREAM, 0));
    tell("ioctl-of-no-use", ioctl(0, 0x5460 /* FIOQSIZE */, &number));
    return 0;
}
