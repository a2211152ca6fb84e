/* What a hostile RUN tries. Each says on standard output what came of it. Linked statically. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

static void say(const char *what, long result) {
    printf("%s: %s\n", what, result < 0 ? strerror(errno) : "done");
}

/* Out of a second root folder, and up. The file named is the machine's. */
static void climb(const char *file) {
    mkdir("/tmp/jail", 0700);
    if (chdir("/") || chroot("/tmp/jail")) return say("chroot", -1);
    for (int i = 0; i < 1000; i++)
        if (chdir("..")) break;
    if (chroot(".")) return say("chroot", -1);
    printf("climbed: %s\n", access(file, F_OK) ? "inside" : "outside");
}

static void descriptors(void) {
    for (int fd = 3; fd < 65536; fd++)
        if (fcntl(fd, F_GETFD) >= 0) printf("descriptor %d\n", fd);
    printf("descriptors: counted\n");
}

/* The machine's disks, by the numbers of all block devices that there may be. */
static void disks(void) {
    for (int major = 1; major < 512; major++) {
        unlink("/tmp/disk");
        if (mknod("/tmp/disk", S_IFBLK | 0600, makedev(major, 0))) { say("mknod", -1); return; }
        int fd = open("/tmp/disk", O_RDONLY);
        struct stat stat;
        if (fd >= 0 && !fstat(fd, &stat) && S_ISBLK(stat.st_mode)) printf("opened device %d\n", major);
        if (fd >= 0) close(fd);
    }
    unlink("/tmp/disk");
    printf("disks: tried\n");
}

static void others(void) {
    int seen = 0, traced = 0;
    for (int pid = 1; pid < 1 << 16; pid++) {
        if (pid == getpid() || kill(pid, 0)) continue;
        seen++;
        if (!ptrace(PTRACE_SEIZE, pid, 0, 0)) traced++;
    }
    printf("others: %d seen, %d traced\n", seen, traced);
}

static void abstract_socket(const char *name) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    memcpy(address.sun_path + 1, name, strlen(name));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    say("abstract socket", connect(fd, (void *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)));
}

static void calls(void) {
    char buffer[256] = { 0 };
    say("keyctl", syscall(SYS_keyctl, 0, -3, 1));
    say("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -3));
    say("request_key", syscall(SYS_request_key, "user", "x", 0, -3));
    say("bpf", syscall(SYS_bpf, 0, buffer, sizeof buffer));
    say("io_uring_setup", syscall(425, 8, buffer));
    say("perf_event_open", syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
    say("userfaultfd", syscall(SYS_userfaultfd, 1));
    say("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, buffer, 0));
    say("unshare", unshare(CLONE_NEWUSER));
    say("setns", setns(0, 0));
    say("mount", syscall(SYS_mount, "x", "/tmp", "tmpfs", 0, 0));
    say("fsopen", syscall(430, "tmpfs", 0));
    say("AF_ALG", socket(38, SOCK_SEQPACKET, 0));
    say("AF_VSOCK", socket(40, SOCK_STREAM, 0));
    say("clone3", syscall(435, buffer, 88));
    say("unknown call", syscall(1000));
#ifdef __x86_64__
    long result;
    /* getpid of the 32-bit interface, and of x32. */
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
    printf("32-bit call: %s\n", result < 0 ? strerror(-result) : "done");
    say("x32 call", syscall(0x40000000 | SYS_getpid));
#endif
}

/* Writes to the program that started this one, whose file the descriptor stands for. */
static void overwrite(const char *descriptor) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%s", descriptor);
    say("overwrite", open(path, O_WRONLY | O_APPEND));
    say("chmod", chmod(path, 0777));
    say("truncate", truncate(path, 0));
}

static void bomb(void) {
    int count = 0;
    while (count < 3000) {
        int pid = fork();
        if (pid == 0) for (;;) pause();
        if (pid < 0) break;
        count++;
    }
    printf("forked %d\n", count);
    fflush(stdout);
    for (;;) pause();
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "", *more = argc > 2 ? argv[2] : "";
    setvbuf(stdout, 0, _IOLBF, 0);
    if (!strcmp(what, "climb")) climb(more);
    else if (!strcmp(what, "descriptors")) descriptors();
    else if (!strcmp(what, "disks")) disks();
    else if (!strcmp(what, "others")) others();
    else if (!strcmp(what, "abstract")) abstract_socket(more);
    else if (!strcmp(what, "calls")) calls();
    else if (!strcmp(what, "overwrite")) overwrite(more);
    else if (!strcmp(what, "bomb")) bomb();
    else return 2;
    return 0;
}
