/* A stand-in for apparmor_parser. Its standard input is the text; each line `#! DEED [ARGUMENT]` of
 * it is done in turn:
 *     hang            waits for ever
 *     spin            computes for ever
 *     fork            starts a child that waits for ever
 *     signal N        sends itself the signal N
 *     exit N          ends with status N
 *     say TEXT        prints TEXT on standard error, with the escapes \n, \e and \xHH
 *     shout           prints 200,000 bytes on standard error
 *     print TEXT      prints TEXT on standard output, with the same escapes
 *     flood           writes policy for ever
 *     show            prints user, capabilities, environment, folder and open files on standard error
 *     await NAME      waits until the file NAME is in the base folder
 *     copy NAME       writes the file NAME of the base folder to standard output
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;
static const char *base = "";

static void print(FILE *to, const char *text) {
    for (; *text; text++)
        if (text[0] == '\\' && text[1] == 'n') fputc('\n', to), text++;
        else if (text[0] == '\\' && text[1] == 'e') fputc('\033', to), text++;
        else if (text[0] == '\\' && text[1] == 'x') {
            char digits[3] = {text[2], text[3], 0};
            fputc(strtol(digits, NULL, 16), to), text += 3;
        }
        else fputc(*text, to);
    fflush(to);
}

static void show(void) {
    char line[4096];
    fprintf(stderr, "user %d group %d folder %s", getuid(), getgid(), getcwd(line, sizeof line));
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2];
    if (syscall(SYS_capget, &header, sets) == 0)
        fprintf(stderr, " capabilities %08x%08x", sets[1].effective | sets[1].permitted, sets[0].effective | sets[0].permitted);
    for (char **word = environ; *word; word++) fprintf(stderr, " variable %s", *word);
    for (int fd = 3; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0) fprintf(stderr, " descriptor %d", fd);
    fputc('\n', stderr);
}

static void perform(const char *deed, const char *argument) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", base, argument);
    if (!strcmp(deed, "hang")) for (;;) pause();
    if (!strcmp(deed, "spin")) for (;;) ;
    if (!strcmp(deed, "fork") && fork() == 0) for (;;) pause();
    if (!strcmp(deed, "signal")) raise(atoi(argument));
    if (!strcmp(deed, "exit")) exit(atoi(argument));
    if (!strcmp(deed, "say")) print(stderr, argument);
    if (!strcmp(deed, "print")) print(stdout, argument);
    if (!strcmp(deed, "shout")) for (int n = 0; n < 200000; n++) fputc('x', stderr);
    if (!strcmp(deed, "flood")) while (write(1, path, sizeof path) > 0) ;
    if (!strcmp(deed, "show")) show();
    if (!strcmp(deed, "await")) while (access(path, F_OK)) usleep(10000);
    if (!strcmp(deed, "copy")) {
        FILE *file = fopen(path, "r");
        int byte;
        if (!file) exit(99);
        while ((byte = fgetc(file)) != EOF) fputc(byte, stdout);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    static char line[1 << 20];
    for (int n = 1; n + 1 < argc; n++)
        if (!strcmp(argv[n], "-b")) base = argv[n + 1];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "#! ", 3)) continue;
        char *deed = line + 3, *argument = strchr(deed, ' ');
        if (argument) *argument++ = 0;
        perform(deed, argument ? argument : "");
    }
    return 0;
}
