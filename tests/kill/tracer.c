/* tracer LOG KERNEL [PROCESS CALL ACTION] -- PROGRAM ARGUMENT...
 *
 * Runs PROGRAM and its children, counts the system calls of each, and does ACTION at the start
 * of one of them: kill (SIGKILL to the process that makes it; the call is not made),
 * return=N (the call is not made, and returns N: 0, or the negative of an error's number).
 * strace counts by the name of the call and cannot distinguish the child from its parent, so it cannot
 * name each call once.
 *
 * PROCESS 0 is PROGRAM, 1 its first child and so on; CALL 1 is the first after its start, w1 the
 * first that writes, w1+ the one after that: a scan of /proc makes as many calls as there are
 * processes, and none of those writes.
 * A call that the kernel starts again after a signal is counted once.
 *
 * KERNEL is - or a folder. After each write to KERNEL/.load, KERNEL/.replace or KERNEL/.remove the
 * word `load`, `replace` or `remove` is printed, and PROGRAM stands still until a byte comes on
 * stdin: whoever reads is the kernel.
 *
 * With TRACER_NO_FSYNC in the environment no fsync or fdatasync is made, and each returns 0.
 *
 * LOG gets a line for each call, in the order of their starts:
 *     PROCESS CALL NAME RESULT MARK PATH
 * RESULT is ? if it never returned; MARK is w for an open to write, ! where ACTION was done, or -.
 * Ends with the status of PROGRAM, 128 + the number of the signal that ended it, or 125. After ten
 * minutes all of it is killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *names[] = {
#include "names.h"
};

struct process {
    pid_t pid;
    long calls;
    long record; /* index of the call that it is in, or -1 */
    int counted; /* from the first exec on */
    int started; /* its first SIGSTOP was seen */
    int force;   /* the result is forced, to this: */
    long forced;
    long writes; /* how many of its calls write */
    int due;     /* the next call is the one */
    int alive;
};
struct record {
    int process;
    long call;
    long number;
    long result;
    int returned;
    char mark;
    char path[400];
};

static struct process processes[64];
static int process_count;
static struct record *records;
static long record_count, record_room;

static void die(const char *cause) {
    fprintf(stderr, "tracer: %s: %s\n", cause, strerror(errno));
    exit(125);
}

static struct process *process_of(pid_t pid) {
    for (int i = process_count; i-- > 0;)
        if (processes[i].alive && processes[i].pid == pid) return &processes[i];
    if (process_count == 64) die("more than 64 processes");
    struct process *new = &processes[process_count++];
    *new = (struct process){.pid = pid, .record = -1, .counted = process_count > 1, .alive = 1};
    return new;
}

static const char *name_of(long number) {
    const long known = sizeof names / sizeof *names;
    return number >= 0 && number < known && names[number] ? names[number] : "unknown";
}

static void read_string(pid_t pid, unsigned long address, char *out, size_t room) {
    /* To the end of its page: the next page may not be there. */
    size_t length = 4096 - address % 4096;
    if (length > room - 1) length = room - 1;
    struct iovec here = {out, length}, there = {(void *)address, length};
    ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
    out[got < 0 ? 0 : got] = 0;
}

static void describe(struct record *record, pid_t pid, const __uint64_t *args) {
    const char *name = name_of(record->number);
    const char *by_fd[] = {"write", "writev", "pwrite64", "fsync", "fdatasync", "ftruncate",
                           "fchmod", "fcntl", "flock", "read", "getdents64", NULL};
    const char *by_path[] = {"open", "mkdir", "rename", "unlink", "chmod", "execve", "rmdir",
                             "symlink", "link", NULL};
    const char *at_path[] = {"openat", "mkdirat", "renameat", "renameat2", "unlinkat", "fchmodat",
                             "newfstatat", "statx", NULL};
    record->path[0] = 0;
    for (const char **p = by_fd; *p; p++)
        if (!strcmp(*p, name)) {
            char link[64];
            snprintf(link, sizeof link, "/proc/%d/fd/%d", pid, (int)args[0]);
            ssize_t length = readlink(link, record->path, sizeof record->path - 1);
            record->path[length < 0 ? 0 : length] = 0;
        }
    for (const char **p = by_path; *p; p++)
        if (!strcmp(*p, name)) read_string(pid, args[0], record->path, sizeof record->path);
    for (const char **p = at_path; *p; p++)
        if (!strcmp(*p, name)) read_string(pid, args[1], record->path, sizeof record->path);
    long flags = !strcmp(name, "open") ? (long)args[1] : !strcmp(name, "openat") ? (long)args[2] : 0;
    if (flags & (O_WRONLY | O_RDWR | O_CREAT)) record->mark = 'w';
    for (char *c = record->path; *c; c++)
        if (*c == '\n') *c = '?';
}

static void save(const char *file) {
    FILE *log = fopen(file, "w");
    if (!log) die(file);
    for (long i = 0; i < record_count; i++) {
        struct record *r = &records[i];
        if (r->call == 0) continue;
        fprintf(log, "%d %ld %s ", r->process, r->call, name_of(r->number));
        if (r->returned) fprintf(log, "%ld", r->result); else fprintf(log, "?");
        fprintf(log, " %c %s\n", r->mark, r->path);
    }
    if (fclose(log)) die(file);
}

static int set_register(pid_t pid, size_t offset, long value) {
    return ptrace(PTRACE_POKEUSER, pid, (void *)offset, (void *)value) == 0;
}

/* The reader of stdout acts as a kernel would. */
static void ask_kernel(const char *kernel, const struct record *record) {
    size_t length = strlen(kernel);
    char answer;
    if (strcmp(name_of(record->number), "write") || record->result <= 0) return;
    if (strncmp(record->path, kernel, length) || strncmp(record->path + length, "/.", 2)) return;
    printf("%s\n", record->path + length + 2);
    fflush(stdout);
    if (read(0, &answer, 1) != 1) die("no kernel answers");
}

static const char *kernel;
static int target = -1, kills;
static long call = -1, result;
static int by_writes, after;
static int ended = -1, no_fsync;

/* Whether a full, broken or read-only disk could make it fail: as Call::writes of trace.rs. */
static int writes(const struct record *r, const __uint64_t *args) {
    const char *list[] = {"write", "writev", "pwrite64", "mkdir", "mkdirat", "rename", "renameat",
                          "renameat2", "unlink", "unlinkat", "rmdir", "fsync", "fdatasync",
                          "ftruncate", "chmod", "fchmod", "fchmodat", "flock", "memfd_create", NULL};
    const char *name = name_of(r->number);
    for (const char **p = list; *p; p++)
        if (!strcmp(*p, name)) return 1;
    long flags = r->number == SYS_open ? (long)args[1] : r->number == SYS_openat ? (long)args[2] : 0;
    return (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0;
}

static int is_the_call(struct process *p, const struct record *r, const __uint64_t *args) {
    if (r->process != target) return 0;
    if (!by_writes) return r->call == call;
    if (p->due) return 1;
    if (!writes(r, args) || ++p->writes != call) return 0;
    p->due = after;
    return !after;
}

static void enter(struct process *p, const struct __ptrace_syscall_info *info) {
    if (record_count == record_room) {
        record_room = record_room ? 2 * record_room : 4096;
        records = realloc(records, record_room * sizeof *records);
        if (!records) die("memory");
    }
    p->record = record_count++;
    struct record *r = &records[p->record];
    *r = (struct record){.process = (int)(p - processes), .call = ++p->calls,
                         .number = (long)info->entry.nr, .mark = '-'};
    /* Whoever does something already knows the calls: only the kernel's files matter then. */
    if (call < 0 || (kernel[0] != '-' && r->number == SYS_write)) describe(r, p->pid, info->entry.args);
    if (no_fsync && (r->number == SYS_fsync || r->number == SYS_fdatasync)) {
        set_register(p->pid, offsetof(struct user, regs.orig_rax), -1);
        p->force = 1;
        p->forced = 0;
    }
    if (!is_the_call(p, r, info->entry.args)) return;
    r->mark = '!';
    target = -1;
    if (kills) {
        kill(p->pid, SIGKILL);
    } else {
        set_register(p->pid, offsetof(struct user, regs.orig_rax), -1);
        p->force = 1;
        p->forced = result;
    }
}

static void handle(pid_t pid, int status);

/* The tracer learns of a traced child's end first: its parent would see that it has ended, and
 * ask in vain for its status, until the tracer has it. */
static void wait_for_an_end(const struct process *parent) {
    int status;
    for (int tries = 0; tries < 1000; tries++) {
        int others = 0;
        for (int i = 0; i < process_count; i++) {
            struct process *p = &processes[i];
            if (p == parent || !p->alive) continue;
            others++;
            if (waitpid(p->pid, &status, __WALL | WNOHANG) != p->pid) continue;
            handle(p->pid, status);
            if (!p->alive) return;
        }
        if (!others) return;
        usleep(1000);
    }
}

static void leave(struct process *p, const struct __ptrace_syscall_info *info) {
    struct record *r = &records[p->record];
    r->result = (long)info->exit.rval;
    if (p->force) {
        set_register(p->pid, offsetof(struct user, regs.rax), p->forced);
        r->result = p->forced;
        p->force = 0;
    }
    r->returned = 1;
    if (r->result <= -512 && r->result >= -516) {
        r->call = 0;
        p->calls--;
    }
    if (kernel[0] != '-') ask_kernel(kernel, r);
    long number = r->number, done = r->result;
    p->record = -1;
    if (number == SYS_ppoll && done > 0) wait_for_an_end(p);
}

/* Takes a process' status from waitpid, and lets it go on. */
static void handle(pid_t pid, int status) {
    struct process *p = process_of(pid);
    if (!WIFSTOPPED(status)) {
        p->alive = 0;
        if (p == processes) ended = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        return;
    }
    int sig = WSTOPSIG(status), deliver = 0;
    if (sig == (SIGTRAP | 0x80)) {
        struct __ptrace_syscall_info info;
        /* Fails if it was killed in the meantime: its end comes next. */
        if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) > 0) {
            if (info.op == PTRACE_SYSCALL_INFO_ENTRY && p->counted) enter(p, &info);
            else if (info.op == PTRACE_SYSCALL_INFO_EXIT && p->record >= 0) leave(p, &info);
        }
    } else if (sig == SIGTRAP && status >> 16) {
        if (status >> 16 == PTRACE_EVENT_EXEC) p->counted = 1;
    } else if (sig == SIGSTOP && !p->started) {
        p->started = 1;
    } else {
        deliver = sig;
    }
    ptrace(PTRACE_SYSCALL, pid, 0, deliver);
}

int main(int argc, char **argv) {
    if (argc < 5) { errno = EINVAL; die("usage"); }
    const char *log = argv[1];
    int at = 3, status;
    kernel = argv[2];
    no_fsync = getenv("TRACER_NO_FSYNC") != NULL;
    if (strcmp(argv[3], "--")) {
        if (argc < 8) { errno = EINVAL; die("usage"); }
        target = atoi(argv[3]);
        by_writes = argv[4][0] == 'w';
        call = atol(argv[4] + by_writes);
        after = argv[4][strlen(argv[4]) - 1] == '+';
        kills = !strcmp(argv[5], "kill");
        if (!kills) result = atol(argv[5] + strlen("return="));
        at = 6;
    }
    char **program = argv + at + 1;
    alarm(600);
    pid_t first = fork();
    if (first == 0) {
        int none = open("/dev/null", O_RDWR);
        dup2(none, 0);
        dup2(2, 1);
        if (none > 2) close(none);
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(program[0], program);
        die(program[0]);
    }
    process_of(first);
    if (waitpid(first, &status, 0) != first || !WIFSTOPPED(status)) die("no start");
    processes[0].started = 1;
    if (ptrace(PTRACE_SETOPTIONS, first, 0,
               PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                   PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL))
        die("options");
    ptrace(PTRACE_SYSCALL, first, 0, 0);
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid > 0) handle(pid, status);
        else if (errno != EINTR) break;
    }
    save(log);
    return ended < 0 ? 125 : ended;
}
