/* Two ranks write a version each way, the other reads it; wrong calls fail and harm nothing. */
#include <time.h>

#include "check.h"

#define BYTES (3u << 20)

static char plate[2][BYTES], found[BYTES];

static int rank_writes(int ckpt, uint64_t version, uint32_t rank, const hayate_ckpt_options_t *options)
{
    int writer = hayate_ckpt_begin(ckpt, "heat", version, rank, 2, options);
    CHECK(writer >= 0);
    GIVES(BYTES, hayate_ckpt_write(writer, "plate", plate[rank], BYTES, (uint64_t)rank * BYTES));
    return writer;
}

static void *commits(void *writer)
{
    return (void *)(intptr_t)hayate_ckpt_commit(*(int *)writer, 1);
}

static void both_commit(int ckpt, uint64_t version, const hayate_ckpt_options_t *options)
{
    int writers[2];
    pthread_t other;
    void *verdict;
    for (uint32_t rank = 0; rank < 2; rank++)
        writers[rank] = rank_writes(ckpt, version, rank, options);
    CHECK(pthread_create(&other, NULL, commits, &writers[0]) == 0);
    GIVES(0, hayate_ckpt_commit(writers[1], 1));
    CHECK(pthread_join(other, &verdict) == 0 && verdict == NULL);
    FAILS(EBADF, hayate_ckpt_commit(writers[1], 1));
}

static void reads(int ckpt, uint64_t version)
{
    GIVES(2 * (int64_t)BYTES, hayate_ckpt_size(ckpt, "heat", version, "plate"));
    for (uint64_t rank = 0; rank < 2; rank++) {
        memset(found, 0, BYTES);
        GIVES(BYTES, hayate_ckpt_read(ckpt, "heat", version, "plate", found, BYTES, rank * BYTES));
        CHECK(memcmp(found, plate[rank], BYTES) == 0);
    }
}

static void verdicts(int ckpt)
{
    int first = rank_writes(ckpt, 10, 0, NULL), second = rank_writes(ckpt, 10, 1, NULL);
    FAILS(EINVAL, hayate_ckpt_join(first, 5)); /* Not sealed yet, and not lost by asking. */
    GIVES(0, hayate_ckpt_seal(first, 1));
    FAILS(EINVAL, hayate_ckpt_write(first, "plate", plate[0], 1, 0));
    FAILS(EINVAL, hayate_ckpt_commit(first, 1));
    FAILS(EINVAL, hayate_ckpt_abort(first));
    GIVES(0, hayate_ckpt_test(first));
    GIVES(HAYATE_CKPT_OPEN, hayate_ckpt_state(ckpt, "heat", 10));
    FAILS(ETIMEDOUT, hayate_ckpt_wait(ckpt, "heat", 10, HAYATE_CKPT_COMMITTED, 5));
    FAILS(EINVAL, hayate_ckpt_wait(ckpt, "heat", 10, HAYATE_CKPT_OPEN, 5));
    FAILS(ECANCELED, hayate_ckpt_commit(second, 0));
    FAILS(ECANCELED, hayate_ckpt_test(first));
    FAILS(EBADF, hayate_ckpt_test(first));
    GIVES(HAYATE_CKPT_ABORTED, hayate_ckpt_state(ckpt, "heat", 10));
    first = rank_writes(ckpt, 10, 0, NULL);
    GIVES(0, hayate_ckpt_seal(first, 1));
    FAILS(ECANCELED, hayate_ckpt_join(first, 5)); /* The other one does not come. */
}

/* One that knows only the first fields of a struct gets these, and nothing behind them. */
static void older_program(int ckpt)
{
    struct { uint64_t version, guard; } known[2] = {{0, 7}, {0, 7}};
    GIVES(4, hayate_ckpt_list(ckpt, "heat", (hayate_ckpt_info_t *)known, sizeof known[0].version, 2));
    CHECK(known[0].version == 1 && known[0].guard == 2 && known[1].version == 0 && known[1].guard == 7);
    struct { size_t size; int checkpoint, guard; } advice = {offsetof(hayate_ckpt_advice_t, stop), 7, 7};
    GIVES(0, hayate_ckpt_advise(3600, 10, 1, 65, 0, (hayate_ckpt_advice_t *)&advice));
    CHECK(advice.size == offsetof(hayate_ckpt_advice_t, stop) && advice.checkpoint == 1 && advice.guard == 7);
}

/* Bytes that rank 0 stored of the first region of a version of set "packed". */
static int64_t stored(int fs, uint64_t version)
{
    hayate_entry_t entry;
    hayate_stat_t file;
    char path[512];
    int64_t size = -1;
    int list = hayate_opendir(fs, "/checkpoints/packed/data", 0);
    CHECK(list >= 0);
    while (hayate_readdir(list, &entry) == 1) {
        if (strtoull((char *)entry.name, NULL, 10) != version)
            continue;
        snprintf(path, sizeof path, "/checkpoints/packed/data/%s/r0/0", (char *)entry.name);
        GIVES(0, hayate_stat(fs, path, &file));
        size = (int64_t)file.size;
    }
    GIVES(0, hayate_closedir(list));
    return size;
}

/* Blocks that did not change are stored once, and what compresses is compressed. */
static void packed(int fs, int ckpt)
{
    hayate_ckpt_options_t options = {.size = sizeof options, .incremental = 1, .compress = 1};
    for (uint64_t version = 1; version <= 2; version++) {
        plate[0][5] = (char)version;
        int writer = hayate_ckpt_begin(ckpt, "packed", version, 0, 1, &options);
        GIVES(BYTES, hayate_ckpt_write(writer, "plate", plate[0], BYTES, 0));
        GIVES(0, hayate_ckpt_commit(writer, 1));
        GIVES(BYTES, hayate_ckpt_read(ckpt, "packed", version, "plate", found, BYTES, 0));
        CHECK(memcmp(found, plate[0], BYTES) == 0);
    }
    CHECK(stored(fs, 1) > 0 && stored(fs, 1) < BYTES / 2);
    CHECK(stored(fs, 2) > 0 && stored(fs, 2) < stored(fs, 1));
    /* An older program's options end before these fields. */
    options.size = offsetof(hayate_ckpt_options_t, incremental);
    GIVES(0, hayate_ckpt_abort(hayate_ckpt_begin(ckpt, "packed", 3, 0, 1, &options)));
}

static void protected_memory(int ckpt)
{
    static char a[1000], b[1000];
    memset(a, 1, sizeof a);
    memset(b, 2, sizeof b);
    GIVES(0, hayate_ckpt_protect(ckpt, "a", a, sizeof a, 0));
    GIVES(0, hayate_ckpt_protect(ckpt, "a", b, sizeof b, sizeof a));
    int writer = hayate_ckpt_begin(ckpt, "state", 1, 0, 1, NULL);
    GIVES(2000, hayate_ckpt_write_all(writer));
    memset(a, 9, sizeof a);
    memset(b, 9, sizeof b);
    GIVES(0, hayate_ckpt_commit(writer, 1));
    GIVES(2000, hayate_ckpt_read_all(ckpt, "state", 1));
    CHECK(a[0] == 1 && a[999] == 1 && b[0] == 2 && b[999] == 2);
    GIVES(2, hayate_ckpt_unprotect(ckpt, "a"));
    GIVES(0, hayate_ckpt_read_all(ckpt, "state", 1));
}

static void routed(int fs, int ckpt)
{
    char path[4096];
    int writer = hayate_ckpt_begin(ckpt, "state", 2, 0, 1, NULL);
    FAILS(ERANGE, hayate_ckpt_route(writer, "out", path, 3));
    FAILS(ERANGE, hayate_ckpt_route(writer, "out", path, 3)); /* The region is made once, however often. */
    int64_t length = hayate_ckpt_route(writer, "out", path, sizeof path);
    CHECK(length > 0 && strlen(path) == (size_t)length);
    GIVES(5, hayate_put(fs, path, "hello", 5, 0600));
    GIVES(0, hayate_ckpt_commit(writer, 1));
    GIVES(5, hayate_ckpt_read(ckpt, "state", 2, "out", found, 100, 0));
    CHECK(memcmp(found, "hello", 5) == 0);
}

static void bad_calls(int fs, int ckpt)
{
    hayate_ckpt_options_t options = {0};
    FAILS(EFAULT, hayate_ckpt_open(fs, NULL, NULL, NULL));
    FAILS(EBADF, hayate_ckpt_open(-1, "/c", NULL, NULL));
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, "heat", 20, 0, 1, &options));
    options.size = sizeof options;
    options.copies = options.parity_data = 1;
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, "heat", 20, 0, 1, &options));
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, "heat", 20, 2, 2, NULL));
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, "a/b", 20, 0, 1, NULL));
    FAILS(EEXIST, hayate_ckpt_begin(ckpt, "heat", 1, 0, 2, NULL));
    FAILS(ENOENT, hayate_ckpt_size(ckpt, "heat", 77, "plate"));
    FAILS(ENOENT, hayate_ckpt_size(ckpt, "heat", 1, "none"));
    FAILS(EFAULT, hayate_ckpt_latest(ckpt, "heat", 0, NULL));
}

/* A job that ends in 65 seconds: a checkpoint and a minute are just what is left. */
static void deadline(void) {
    double left = -1;
    char end[32];
    hayate_ckpt_advice_t advice = {.size = sizeof advice};
    CHECK(unsetenv("SLURM_JOB_END_TIME") == 0);
    GIVES(0, hayate_ckpt_time_left(&left));
    CHECK(left == -1 && setenv("SLURM_JOB_END_TIME", "soon", 1) == 0);
    GIVES(0, hayate_ckpt_time_left(&left));
    snprintf(end, sizeof end, "%lld", (long long)time(NULL) + 65);
    CHECK(setenv("SLURM_JOB_END_TIME", end, 1) == 0);
    GIVES(1, hayate_ckpt_time_left(&left));
    CHECK(left >= 0 && left <= 65);
    GIVES(0, hayate_ckpt_advise(3600, 10, 1, left, 0, &advice));
    CHECK(advice.stop == 1);
    FAILS(EFAULT, hayate_ckpt_time_left(NULL));
    CHECK(unsetenv("SLURM_JOB_END_TIME") == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int fs = hayate_connect(argv[1]);
    CHECK(fs >= 0);
    int ckpt = hayate_ckpt_open(fs, "/checkpoints", "run", NULL);
    uint64_t version = 0;
    GIVES(0, hayate_ckpt_latest(ckpt, "heat", 0, &version));
    for (size_t at = 0; at < BYTES; at++) {
        plate[0][at] = (char)(at * 7);
        plate[1][at] = (char)(at * 11 + 3);
    }
    both_commit(ckpt, 1, NULL);
    hayate_ckpt_options_t copies = {.size = sizeof copies, .copies = 1, .timeout_ms = 60000};
    both_commit(ckpt, 2, &copies);
    hayate_ckpt_options_t parity = {.size = sizeof parity, .parity_data = 2, .parity_extra = 1};
    both_commit(ckpt, 3, &parity);
    for (version = 1; version <= 3; version++)
        reads(ckpt, version);
    verdicts(ckpt);
    GIVES(1, hayate_ckpt_latest(ckpt, "heat", 0, &version));
    CHECK(version == 3);
    GIVES(0, hayate_ckpt_finish(ckpt, "heat", 3, 0));
    GIVES(1, hayate_ckpt_latest(ckpt, "heat", 0, &version));
    CHECK(version == 2);
    FAILS(EEXIST, hayate_ckpt_begin(ckpt, "heat", 3, 0, 2, NULL));
    GIVES(0, hayate_ckpt_remove(ckpt, "heat", 3));
    FAILS(ENOENT, hayate_ckpt_remove(ckpt, "heat", 3));
    both_commit(ckpt, 3, &parity); /* The number is free, */
    reads(ckpt, 3);                /* and what was read of it before is not what is read now. */
    GIVES(0, hayate_ckpt_remove(ckpt, "heat", 3));
    FAILS(ENOENT, hayate_ckpt_size(ckpt, "heat", 3, "plate"));
    int shorter = hayate_ckpt_begin(ckpt, "heat", 3, 0, 1, NULL);
    GIVES(1, hayate_ckpt_write(shorter, "plate", plate[0], 1, 0));
    GIVES(0, hayate_ckpt_commit(shorter, 1));
    GIVES(1, hayate_ckpt_size(ckpt, "heat", 3, "plate"));
    GIVES(0, hayate_ckpt_remove(ckpt, "heat", 3));
    both_commit(ckpt, 3, &parity);
    GIVES(0, hayate_ckpt_finish(ckpt, "heat", 3, 0));
    GIVES(0, hayate_ckpt_pin(ckpt, "heat", 1, 1));
    hayate_ckpt_info_t infos[2];
    GIVES(4, hayate_ckpt_list(ckpt, "heat", infos, sizeof infos[0], 2));
    CHECK(infos[0].version == 1 && infos[0].pinned == 1 && infos[0].bytes == 2 * (uint64_t)BYTES);
    CHECK(infos[1].nranks == 2 && infos[1].state == HAYATE_CKPT_COMMITTED);
    char name[16];
    uint64_t bytes = 0;
    GIVES(1, hayate_ckpt_region(ckpt, "heat", 2, 0, name, sizeof name, &bytes));
    CHECK(strcmp(name, "plate") == 0 && bytes == 2 * (uint64_t)BYTES);
    GIVES(0, hayate_ckpt_region(ckpt, "heat", 2, 1, name, sizeof name, &bytes));
    GIVES(0, hayate_ckpt_prune(ckpt, "heat", 1));
    protected_memory(ckpt);
    packed(fs, ckpt);
    routed(fs, ckpt);
    bad_calls(fs, ckpt);
    FAILS(EFAULT, hayate_ckpt_list(ckpt, "heat", NULL, sizeof infos[0], 2));
    older_program(ckpt);
    double seconds = -1;
    GIVES(0, hayate_ckpt_drain_time(ckpt, 1000, &seconds)); /* There is no shared tier. */
    hayate_ckpt_advice_t advice = {.size = 0};
    FAILS(EINVAL, hayate_ckpt_advise(3600, 10, 1, 65, 0, &advice));
    advice.size = sizeof advice;
    GIVES(0, hayate_ckpt_advise(3600, 10, 1, 65, 0, &advice));
    CHECK(advice.checkpoint == 1 && advice.stop == 1);
    GIVES(0, hayate_ckpt_advise(3600, 10, 1, -1, 0, &advice));
    CHECK(advice.checkpoint == 0 && advice.stop == 0 && advice.next_s > 200 && advice.next_s < 300);
    FAILS(EINVAL, hayate_ckpt_advise(-1, 10, 1, -1, 0, &advice));
    deadline();
    char *gone = malloc(100000);
    CHECK(gone != NULL);
    GIVES(0, hayate_ckpt_protect(ckpt, "gone", gone, 100000, 0));
    int writer = hayate_ckpt_begin(ckpt, "state", 3, 0, 1, NULL);
    GIVES(0, hayate_ckpt_close(ckpt));
    free(gone);
    GIVES(0, hayate_ckpt_write_all(writer)); /* What was registered need not be there any more. */
    GIVES(0, hayate_ckpt_commit(writer, 1));
    FAILS(EBADF, hayate_ckpt_close(ckpt));
    GIVES(0, hayate_disconnect(fs));
    return 0;
}
