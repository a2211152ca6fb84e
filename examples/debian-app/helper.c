/* Says whose rights it runs with: setuid root, it differs from who started it. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    printf("%d as %d\n", (int)getuid(), (int)geteuid());
    return 0;
}
