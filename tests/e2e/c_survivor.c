/* Writes records into a file, each looked at again, until a signal; says so after each. When a call fails it says how long that took. Argument: the cluster file. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "hayate.h"

enum { RECORD = 70000 };

static volatile sig_atomic_t stop;

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int failed(const char *what, long long number, double began) {
    printf("%s: %s after %.1f s: %s\n", what, number == -ETIMEDOUT ? "ETIMEDOUT" : strerror((int)-number), now() - began, hayate_last_error());
    return 1;
}

int main(int argc, char **argv) {
    static char data[RECORD], back[RECORD];
    hayate_options_t options = {sizeof options, 0, 0, 0};
    long record = 0;
    if (argc != 2) return 2;
    signal(SIGUSR1, on_signal);
    /* Longer than a server is away, but for the last time. */
    options.timeout_ms = 20000;
    int fs = hayate_connect_with(argv[1], &options);
    if (fs < 0) return failed("connect", fs, now());
    int file = hayate_open(fs, "/survivor", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0) return failed("open", file, now());
    for (; !stop; record++) {
        double began = now();
        memset(data, (int)('a' + record % 26), RECORD);
        long long wrote = hayate_pwrite(file, data, RECORD, record * RECORD);
        if (wrote != RECORD) return failed("pwrite", wrote, began);
        long long got = hayate_pread(file, back, RECORD, record * RECORD);
        if (got != RECORD) return failed("pread", got, began);
        if (memcmp(data, back, RECORD) != 0) return failed("compare", -EIO, began);
        printf("%ld\n", record);
        fflush(stdout);
    }
    for (long past = 0; past < record; past++) {
        if (hayate_pread(file, back, RECORD, past * RECORD) != RECORD || back[0] != 'a' + past % 26 || back[RECORD - 1] != back[0]) {
            return failed("a record from before", -EIO, now());
        }
    }
    printf("%ld records, all there\n", record);
    return hayate_disconnect(fs) != 0;
}
