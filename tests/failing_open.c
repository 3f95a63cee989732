/* Preloaded into a process: opening a file whose path holds a given text fails with a given errno. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static char text[4096];
static int number;
static int times;

void fail_opening(const char *part, int with, int so_often) {
    strncpy(text, part, sizeof text - 1);
    number = with;
    times = so_often;
}

static int fails(const char *path) {
    if (!times || !text[0] || !path || !strstr(path, text)) return 0;
    if (times > 0) times--;
    errno = number;
    return 1;
}

#define MODE(flags, last) mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, last); \
    mode = va_arg(list, mode_t); va_end(list); }
#define OPEN(name) int name(const char *path, int flags, ...) { \
    MODE(flags, flags) \
    if (fails(path)) return -1; \
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode); }
#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    MODE(flags, flags) \
    if (fails(path)) return -1; \
    return ((int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name))(folder, path, flags, mode); }
#define FOPEN(name) FILE *name(const char *path, const char *mode) { \
    if (fails(path)) return 0; \
    return ((FILE *(*)(const char *, const char *))dlsym(RTLD_NEXT, #name))(path, mode); }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)
