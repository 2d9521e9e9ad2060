/* What the test programs share: checks that say where and why, and end the program. */
#ifndef CHFS_CHECK_H
#define CHFS_CHECK_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chfs.h"

extern const char *hayate_last_error(void);

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: not so: %s (errno %d, %s)\n", __FILE__, __LINE__, #condition, errno,     \
                    hayate_last_error());                                                                    \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

#define FAILS(expected, call)                                                                                \
    do {                                                                                                     \
        errno = 0;                                                                                           \
        CHECK((call) == -1);                                                                                 \
        CHECK(errno == (expected));                                                                          \
    } while (0)

#endif
