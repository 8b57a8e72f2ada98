/* Counts the system calls that change files below a folder, and makes the n-th one fail, stop short, or kill the process.

   A seccomp filter traps the calls of this process, wherever they come from: Python, libc's own stdio, Rust, Arrow. The
   handler of SIGSYS looks at the path, and makes the call itself through `make_call`, which the filter lets pass.
   Linux on x86-64 only. The filter stays until the process ends and is inherited: programs that it starts would die. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

enum action { COUNT, KILL, TEAR, FAIL, FILL, SHORTEN };

#define CALLS 8192
#define LENGTH 240

struct call {
    int number;
    char path[LENGTH];
};

/* Shared with the process that reads the result. */
struct control {
    long count;       /* calls so far */
    long at;          /* the call that is disturbed, from 1 */
    int action;       /* of `enum action` */
    int error;        /* errno of FAIL and FILL */
    char root[LENGTH]; /* the folder, absolute, without links */
    struct call calls[CALLS];
};

static struct control *control;
static size_t root_length;

long make_call(long number, long a, long b, long c, long d, long e, long f);
extern char make_call_end[];
__asm__(
    ".text\n.globl make_call\nmake_call:\n"
    "mov %rdi, %rax\nmov %rsi, %rdi\nmov %rdx, %rsi\nmov %rcx, %rdx\nmov %r8, %r10\nmov %r9, %r8\n"
    "mov 8(%rsp), %r9\nsyscall\n"
    ".globl make_call_end\nmake_call_end:\nret\n");

#define CALL(number, a, b, c) make_call(number, (long)(a), (long)(b), (long)(c), 0, 0, 0)

/* Write the path of a file descriptor; "" if it has none. */
static void read_descriptor(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long length = CALL(SYS_readlink, link, path, LENGTH - 1);
    path[length > 0 ? length : 0] = 0;
}

/* Write the absolute path of a name that is relative to a folder's descriptor. */
static void read_name(int folder, const char *name, char *path) {
    path[0] = 0;
    if (name[0] != '/') {
        if (folder != AT_FDCWD)
            read_descriptor(folder, path);
        else if (CALL(SYS_getcwd, path, LENGTH, 0) < 0)
            path[0] = 0;
        strncat(path, "/", LENGTH - 1 - strlen(path));
    }
    strncat(path, name, LENGTH - 1 - strlen(path));
}

/* Write the path that a call changes. */
static void read_path(long number, const long *a, char *path) {
    switch (number) {
    case SYS_open: case SYS_creat: case SYS_mkdir: case SYS_rmdir: case SYS_unlink: case SYS_truncate: case SYS_chmod:
        read_name(AT_FDCWD, (const char *)a[0], path);
        return;
    case SYS_rename: case SYS_link: case SYS_symlink:
        read_name(AT_FDCWD, (const char *)a[1], path);
        return;
    case SYS_openat: case SYS_openat2: case SYS_mkdirat: case SYS_unlinkat: case SYS_fchmodat:
        read_name((int)a[0], (const char *)a[1], path);
        return;
    case SYS_renameat: case SYS_renameat2: case SYS_linkat:
        read_name((int)a[2], (const char *)a[3], path);
        return;
    case SYS_symlinkat:
        read_name((int)a[1], (const char *)a[2], path);
        return;
    case SYS_copy_file_range:
        read_descriptor((int)a[2], path);
        return;
    default:
        read_descriptor((int)a[0], path);
    }
}

static int is_write(long number) {
    return number == SYS_write || number == SYS_pwrite64 || number == SYS_writev || number == SYS_pwritev;
}

/* Whether a call needs space on the disk. */
static int allocates(long number) {
    switch (number) {
    case SYS_rmdir: case SYS_unlink: case SYS_unlinkat: case SYS_chmod: case SYS_fchmod: case SYS_fchmodat:
    case SYS_rename: case SYS_renameat: case SYS_renameat2:
        return 0;
    }
    return 1;
}

/* Write the first half of what a call would write. */
static long write_half(long number, const long *a) {
    if (number == SYS_write || number == SYS_pwrite64)
        return make_call(number, a[0], a[1], a[2] > 1 ? a[2] / 2 : a[2], a[3], 0, 0);
    const struct iovec *first = (const struct iovec *)a[1];
    struct iovec half = {first->iov_base, first->iov_len > 1 ? first->iov_len / 2 : first->iov_len};
    return make_call(number, a[0], (long)&half, 1, a[3], 0, 0);
}

static long disturb(long number, const long *a, long index) {
    int here = index == control->at, later = index > control->at;
    switch (control->action) {
    case TEAR:
        if (here && is_write(number))
            write_half(number, a);
        /* fall through */
    case KILL:
        if (here)
            CALL(SYS_kill, getpid(), SIGKILL, 0);
        break;
    case FAIL:
        if (here)
            return -control->error;
        break;
    case FILL:
        if ((here || later) && allocates(number))
            return -control->error;
        break;
    case SHORTEN:
        if ((here || later) && is_write(number))
            return write_half(number, a);
        break;
    }
    return make_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void handle(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    long number = info->si_syscall;
    long a[] = {registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
                registers[REG_R10], registers[REG_R8],  registers[REG_R9]};
    char path[LENGTH];
    int saved = errno;
    read_path(number, a, path);
    if (strncmp(path, control->root, root_length) || (path[root_length] != '/' && path[root_length])) {
        registers[REG_RAX] = make_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    } else {
        long index = __sync_add_and_fetch(&control->count, 1);
        if (index <= CALLS) {
            control->calls[index - 1].number = (int)number;
            strcpy(control->calls[index - 1].path, path);
        }
        registers[REG_RAX] = disturb(number, a, index);
    }
    errno = saved;
}

#define JUMP(code, k, yes, no) BPF_JUMP(BPF_JMP | code | BPF_K, (unsigned)(k), yes, no)
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)
#define TRAP BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define TRAP_IF(number) JUMP(BPF_JEQ, number, 0, 1), TRAP
#define ARGUMENT(index) (offsetof(struct seccomp_data, args) + 8 * (index))

/* Start to count; returns 0, or -1 with errno. */
int install(struct control *shared) {
    control = shared;
    root_length = strlen(control->root);
    unsigned long start = (unsigned long)make_call, end = (unsigned long)make_call_end;
    size_t pointer = offsetof(struct seccomp_data, instruction_pointer);
    struct sock_filter filter[] = {
        LOAD(offsetof(struct seccomp_data, arch)), JUMP(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0), ALLOW,
        /* The pointer is that of the instruction after `syscall`, which is where make_call ends. */
        LOAD(pointer + 4), JUMP(BPF_JEQ, end >> 32, 0, 4),
        LOAD(pointer), JUMP(BPF_JGE, (unsigned)start, 0, 2), JUMP(BPF_JGT, (unsigned)end, 1, 0), ALLOW,
        LOAD(offsetof(struct seccomp_data, nr)),
        TRAP_IF(SYS_write), TRAP_IF(SYS_pwrite64), TRAP_IF(SYS_writev), TRAP_IF(SYS_pwritev), TRAP_IF(SYS_pwritev2),
        TRAP_IF(SYS_creat), TRAP_IF(SYS_openat2), TRAP_IF(SYS_rename), TRAP_IF(SYS_renameat), TRAP_IF(SYS_renameat2),
        TRAP_IF(SYS_mkdir), TRAP_IF(SYS_mkdirat), TRAP_IF(SYS_rmdir), TRAP_IF(SYS_unlink), TRAP_IF(SYS_unlinkat),
        TRAP_IF(SYS_link), TRAP_IF(SYS_linkat), TRAP_IF(SYS_symlink), TRAP_IF(SYS_symlinkat),
        TRAP_IF(SYS_truncate), TRAP_IF(SYS_ftruncate), TRAP_IF(SYS_fallocate), TRAP_IF(SYS_fsync),
        TRAP_IF(SYS_fdatasync), TRAP_IF(SYS_copy_file_range), TRAP_IF(SYS_sendfile),
        TRAP_IF(SYS_chmod), TRAP_IF(SYS_fchmod), TRAP_IF(SYS_fchmodat),
        JUMP(BPF_JEQ, SYS_open, 0, 3), LOAD(ARGUMENT(1)), JUMP(BPF_JSET, O_CREAT | O_TRUNC, 0, 1), TRAP,
        LOAD(offsetof(struct seccomp_data, nr)),
        JUMP(BPF_JEQ, SYS_openat, 0, 3), LOAD(ARGUMENT(2)), JUMP(BPF_JSET, O_CREAT | O_TRUNC, 0, 1), TRAP,
        ALLOW,
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
    sigfillset(&action.sa_mask);
    if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
