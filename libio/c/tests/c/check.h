/* What the test programs share: a check that says where and why, and ends the program. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hayate.h"

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition,          \
                    hayate_last_error());                                                                    \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* That a call gives this number. */
#define GIVES(expected, call)                                                                                \
    do {                                                                                                     \
        long long want_ = (long long)(expected), got_ = (long long)(call);                                   \
        if (want_ != got_) {                                                                                 \
            fprintf(stderr, "%s:%d: %s gives %lld, not %lld (last error: %s)\n", __FILE__, __LINE__, #call,  \
                    got_, want_, hayate_last_error());                                                       \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* That a call fails so, and has words for it. */
#define FAILS(expected, call)                                                                                \
    do {                                                                                                     \
        GIVES(-(expected), call);                                                                            \
        CHECK(strlen(hayate_last_error()) > 0);                                                              \
    } while (0)

#endif
