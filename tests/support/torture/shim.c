/* Loaded with LD_PRELOAD: sees every call by which a process changes or syncs files below one folder, and can log it,
 * make it fail, or end the process at it.
 *
 * Environment, read when the library is loaded and again by torture_arm() (a forked process gets a fault of its own):
 *   TORTURE_ROOT     the folder; without it nothing is seen
 *   TORTURE_COUNTER  file of one long: operations so far. All processes of a run share it, so that an operation has
 *                    one number whoever performs it.
 *   TORTURE_LOG      file that gets a line for each operation that succeeded (see `finish`)
 *   TORTURE_FAULT    "HOW N ERRNO WHOM", for operation number N (counted from 1):
 *                    before     die instead of performing it
 *                    after      die once it is performed
 *                    torn       a write: perform half of it and die; anything else: as `before`
 *                    fail       it fails with ERRNO
 *                    fail-from  it and all that follow fail with ERRNO
 *                    short      a write: half of it is performed; all that follows fails with ERRNO, as on a full disk
 *                    marked     die at remark number N of those that torture_mark makes
 *                    stop       stop there, until somebody continues the process
 *                    WHOM dies is `group` (the process group: everybody at once) or `self` (who performs N).
 *
 *   TORTURE_REFUSE   "CALL ERRNO PART WHILE": every CALL (the names in the log; also rmdir, and flock) on a path with PART
 *                    in it fails with ERRNO, as long as there is a file WHILE
 *
 * The calls themselves go straight to the kernel: so there is nothing to look up and nothing to recurse into.
 * What it cannot see (stdio, mmap, sendfile) shows as a difference when the log is replayed; a test does that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct operation {
    const char *name;
    char path[PATH_MAX + 16]; /* the kernel appends " (deleted)" to the name of a file that has none any more */
    char other[PATH_MAX];     /* the new name, where there are two */
    long offset;              /* where a write begins; the length a truncation leaves */
    long flags;               /* of an open; AT_REMOVEDIR of an unlink */
    const void *data;
    size_t length;
};

static char root[PATH_MAX];
static size_t root_length;
static volatile long *counter;
static int counter_fd = -1, log_fd = -1;
static char how[16], whom[16];
static long fault_at;
static int fault_errno;
static char refused_call[16], refused_part[256], refused_while[PATH_MAX];
static int refused_errno;
static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) void torture_arm(void)
{
    const char *folder = getenv("TORTURE_ROOT"), *count = getenv("TORTURE_COUNTER");
    const char *log = getenv("TORTURE_LOG"), *fault = getenv("TORTURE_FAULT");
    root_length = 0;
    if (!folder || !count || !realpath(folder, root))
        return;
    /* An open of its own: flock would not keep processes apart that share one. */
    counter_fd = syscall(SYS_openat, AT_FDCWD, count, O_RDWR | O_CLOEXEC, 0);
    counter = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, counter_fd, 0);
    if (counter == MAP_FAILED)
        abort();
    log_fd = log ? syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    how[0] = 0;
    if (fault && sscanf(fault, "%15s %ld %d %15s", how, &fault_at, &fault_errno, whom) != 4)
        abort();
    const char *refuse = getenv("TORTURE_REFUSE");
    *refused_call = 0;
    if (refuse && sscanf(refuse, "%15s %d %255s %4095s", refused_call, &refused_errno, refused_part, refused_while) != 4)
        abort();
    root_length = strlen(root);
}

/* --- whether a call concerns us --- */

static int below(const char *path)
{
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int of_descriptor(int fd, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = root_length ? syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1) : -1;
    path[length < 0 ? 0 : length] = 0;
    return length > 0 && below(path);
}

/* The absolute path of `name`, without links in its folder; with `follow`, nor as its last part. */
static int of_name(int folder, const char *name, int follow, char *path)
{
    char whole[2 * PATH_MAX], real[PATH_MAX], start[PATH_MAX] = "";
    if (!root_length)
        return 0;
    if (name[0] != '/' && folder == AT_FDCWD && !getcwd(start, sizeof start))
        return 0;
    if (name[0] != '/' && folder != AT_FDCWD)
        of_descriptor(folder, start, sizeof start);
    snprintf(whole, sizeof whole, name[0] == '/' ? "%s%s" : "%s/%s", start, name);
    if (follow && realpath(whole, path))
        return below(path);
    char *last = strrchr(whole, '/');
    while (last > whole && !last[1]) { /* "folder/" is "folder" */
        *last = 0;
        last = strrchr(whole, '/');
    }
    *last = 0;
    if (!realpath(*whole ? whole : "/", real))
        return 0; /* no such folder: the call will fail by itself */
    int length = snprintf(path, PATH_MAX, "%s/%s", strcmp(real, "/") ? real : "", last + 1);
    return length < PATH_MAX && below(path);
}

/* --- what happens at an operation --- */

static void die(void)
{
    kill(strcmp(whom, "self") ? 0 : getpid(), SIGKILL);
    for (;;)
        pause();
}

static int is(const char *kind)
{
    return !strcmp(how, kind);
}

static int refused(const char *call, const char *path)
{
    if (!*refused_call || strcmp(call, refused_call) || !strstr(path, refused_part) ||
        syscall(SYS_faccessat, AT_FDCWD, refused_while, F_OK) < 0)
        return 0;
    errno = refused_errno;
    return 1;
}

/* Count the operation; say whether it may go on. From here to `finish` no other operation of the run happens. */
static int begin(struct operation *op)
{
    pthread_mutex_lock(&threads);
    while (flock(counter_fd, LOCK_EX) && errno == EINTR)
        ;
    long number = ++*counter;
    if (refused(op->flags & AT_REMOVEDIR && !strcmp(op->name, "unlink") ? "rmdir" : op->name, op->path))
        return 0;
    int here = *how && number == fault_at, later = *how && number > fault_at;
    if (here && (is("torn") || is("short")) && op->data)
        op->length /= 2;
    else if (here && (is("before") || is("torn")))
        die();
    else if ((here && (is("fail") || is("fail-from") || is("short"))) || (later && (is("fail-from") || is("short")))) {
        errno = fault_errno;
        return 0;
    }
    return 1;
}

static const char *relative(const char *path)
{
    return !*path ? "" : path[root_length] ? path + root_length + 1 : ".";
}

/* One line: number, process, name, path, other path, offset, flags, data in hexadecimal; separated by tabs. */
static void log_line(const struct operation *op, const char *path, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    char *line = malloc(2 * PATH_MAX + 256 + 2 * length), *end = line;
    end += sprintf(end, "%ld\t%d\t%s\t%s\t%s\t%ld\t%ld\t", *counter, getpid(), op->name, path, relative(op->other),
                   op->offset, op->flags);
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = ((const unsigned char *)op->data)[i];
        *end++ = digits[byte >> 4];
        *end++ = digits[byte & 15];
    }
    *end++ = '\n';
    for (const char *from = line; from < end;) {
        long written = syscall(SYS_write, log_fd, from, end - from);
        if (written < 0)
            abort();
        from += written;
    }
    free(line);
}

static void finish(const struct operation *op, long result)
{
    int error = errno;
    if (result >= 0 && log_fd >= 0)
        log_line(op, relative(op->path), op->data ? (size_t)result : 0);
    if (*how && *counter == fault_at && (is("after") || is("torn")))
        die();
    flock(counter_fd, LOCK_UN);
    pthread_mutex_unlock(&threads);
    errno = error;
}

#define PERFORM(op, call)                              \
    ({                                                 \
        long result_ = begin(&(op)) ? (call) : -1;     \
        finish(&(op), result_);                        \
        result_;                                       \
    })

/* For who runs the tool: a remark in the log, at its place between the operations; no operation itself. */
void torture_mark(const char *text)
{
    static long marks;
    struct operation op = {.name = "mark"};
    if ((is("marked") || is("stop")) && ++marks == fault_at) {
        if (is("marked"))
            die();
        raise(SIGSTOP);
    }
    if (!root_length || log_fd < 0)
        return;
    pthread_mutex_lock(&threads);
    while (flock(counter_fd, LOCK_EX) && errno == EINTR)
        ;
    log_line(&op, text, 0);
    flock(counter_fd, LOCK_UN);
    pthread_mutex_unlock(&threads);
}

/* --- the calls --- */

static int open_at(int folder, const char *name, int flags, mode_t mode)
{
    struct operation op = {.name = "open", .flags = flags};
    int changes = flags & (O_CREAT | O_TRUNC) || (flags & O_ACCMODE) != O_RDONLY;
    if (!changes || !of_name(folder, name, 1, op.path))
        return syscall(SYS_openat, folder, name, flags, mode);
    return PERFORM(op, syscall(SYS_openat, folder, name, flags, mode));
}

static mode_t mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

int open(const char *name, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return open_at(AT_FDCWD, name, flags, mode);
}

int openat(int folder, const char *name, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return open_at(folder, name, flags, mode);
}

int creat(const char *name, mode_t mode)
{
    return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

ssize_t write(int fd, const void *data, size_t length)
{
    struct operation op = {.name = "write", .data = data, .length = length};
    struct stat now;
    if (!of_descriptor(fd, op.path, sizeof op.path))
        return syscall(SYS_write, fd, data, length);
    int appends = fcntl(fd, F_GETFL) & O_APPEND;
    op.offset = appends && !fstat(fd, &now) ? now.st_size : lseek(fd, 0, SEEK_CUR);
    return PERFORM(op, syscall(SYS_write, fd, data, op.length));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    struct operation op = {.name = "write", .data = data, .length = length, .offset = offset};
    if (!of_descriptor(fd, op.path, sizeof op.path))
        return syscall(SYS_pwrite64, fd, data, length, offset);
    return PERFORM(op, syscall(SYS_pwrite64, fd, data, op.length, offset));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    char path[PATH_MAX];
    if (!of_descriptor(fd, path, sizeof path))
        return syscall(SYS_writev, fd, parts, count);
    size_t length = 0, filled = 0;
    for (int i = 0; i < count; i++)
        length += parts[i].iov_len;
    char *data = malloc(length + 1);
    for (int i = 0; i < count; filled += parts[i++].iov_len)
        memcpy(data + filled, parts[i].iov_base, parts[i].iov_len);
    ssize_t result = write(fd, data, length);
    free(data);
    return result;
}

int ftruncate(int fd, off_t length)
{
    struct operation op = {.name = "truncate", .offset = length};
    if (!of_descriptor(fd, op.path, sizeof op.path))
        return syscall(SYS_ftruncate, fd, length);
    return PERFORM(op, syscall(SYS_ftruncate, fd, length));
}

int truncate(const char *name, off_t length)
{
    struct operation op = {.name = "truncate", .offset = length};
    if (!of_name(AT_FDCWD, name, 1, op.path))
        return syscall(SYS_truncate, name, length);
    return PERFORM(op, syscall(SYS_truncate, name, length));
}

/* Power cuts are played on a model of a disk, so the real one need not be waited for: a run takes milliseconds. */
int fsync(int fd)
{
    struct operation op = {.name = "fsync"};
    if (!of_descriptor(fd, op.path, sizeof op.path))
        return syscall(SYS_fsync, fd);
    return PERFORM(op, 0);
}

int fdatasync(int fd)
{
    return fsync(fd);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    struct operation op = {.name = "rename", .flags = flags};
    int ours = of_name(from_folder, from, 0, op.path);
    if (!of_name(to_folder, to, 0, op.other) || !ours)
        return syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    return PERFORM(op, syscall(SYS_renameat2, from_folder, from, to_folder, to, flags));
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    return renameat2(from_folder, from, to_folder, to, 0);
}

int rename(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    struct operation op = {.name = "link"};
    of_name(from_folder, from, flags & AT_SYMLINK_FOLLOW, op.path);
    if (!of_name(to_folder, to, 0, op.other))
        return syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
    return PERFORM(op, syscall(SYS_linkat, from_folder, from, to_folder, to, flags));
}

int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int symlinkat(const char *target, int folder, const char *name)
{
    struct operation op = {.name = "symlink"};
    if (!of_name(folder, name, 0, op.path))
        return syscall(SYS_symlinkat, target, folder, name);
    return PERFORM(op, syscall(SYS_symlinkat, target, folder, name));
}

int symlink(const char *target, const char *name)
{
    return symlinkat(target, AT_FDCWD, name);
}

int unlinkat(int folder, const char *name, int flags)
{
    struct operation op = {.name = "unlink", .flags = flags};
    if (!of_name(folder, name, 0, op.path))
        return syscall(SYS_unlinkat, folder, name, flags);
    return PERFORM(op, syscall(SYS_unlinkat, folder, name, flags));
}

int unlink(const char *name)
{
    return unlinkat(AT_FDCWD, name, 0);
}

int rmdir(const char *name)
{
    return unlinkat(AT_FDCWD, name, AT_REMOVEDIR);
}

int mkdirat(int folder, const char *name, mode_t mode)
{
    struct operation op = {.name = "mkdir"};
    if (!of_name(folder, name, 0, op.path))
        return syscall(SYS_mkdirat, folder, name, mode);
    return PERFORM(op, syscall(SYS_mkdirat, folder, name, mode));
}

int mkdir(const char *name, mode_t mode)
{
    return mkdirat(AT_FDCWD, name, mode);
}

/* No operation: it changes nothing on a disk. */
int flock(int fd, int how)
{
    char path[PATH_MAX];
    if (*refused_call && of_descriptor(fd, path, sizeof path) && refused("flock", path))
        return -1;
    return syscall(SYS_flock, fd, how);
}

/* The same calls under the names that programs built for large files use. */
#define ALSO(name) __attribute__((alias(name)))
int open64(const char *, int, ...) ALSO("open");
int openat64(int, const char *, int, ...) ALSO("openat");
int creat64(const char *, mode_t) ALSO("creat");
ssize_t pwrite64(int, const void *, size_t, off64_t) ALSO("pwrite");
int ftruncate64(int, off64_t) ALSO("ftruncate");
int truncate64(const char *, off64_t) ALSO("truncate");
