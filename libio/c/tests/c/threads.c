/* Goal: any thread may use any connection, file and checkpoint at any time. Method: eight write and read their parts of one file and files of their own, list and
 * close what others use; each has its own last error. Then eight write and read versions of sets of their own, and two share one version's writer. Argument: the
 * cluster file. */
#include "check.h"

enum { THREADS = 8, ROUNDS = 60, PIECE = 5000, VERSIONS = 6, PARTS = 40 };

static int fs, shared, ckpt;

static void *work(void *argument) {
    long me = (long)argument;
    char path[64], data[PIECE], back[PIECE];
    hayate_entry_t entry;
    snprintf(path, sizeof path, "/none of %ld", me);
    FAILS(ENOENT, hayate_unlink(fs, path));
    for (int round = 0; round < ROUNDS; round++) {
        long at = (round * THREADS + me) * PIECE;
        memset(data, (int)(me * 31 + round), PIECE);
        GIVES(PIECE, hayate_pwrite(shared, data, PIECE, at));
        GIVES(PIECE, hayate_pread(shared, back, PIECE, at));
        CHECK(memcmp(data, back, PIECE) == 0);
        char own[64];
        snprintf(own, sizeof own, "/t/%ld-%d", me, round);
        int file = hayate_open(fs, own, O_RDWR | O_CREAT | O_EXCL, 0600);
        CHECK(file >= 0);
        GIVES(PIECE, hayate_pwrite(file, data, PIECE, 0));
        GIVES(0, hayate_close(file));
        int list = hayate_opendir(fs, "/t", 0), more;
        CHECK(list >= 0);
        while ((more = hayate_readdir(list, &entry)) == 1) {}
        GIVES(0, more);
        GIVES(0, hayate_closedir(list));
    }
    CHECK(strstr(hayate_last_error(), path) != NULL); /* Not another thread's. */
    return NULL;
}

/* Versions of a set of its own, through one number of checkpoints. */
static void *saves(void *argument) {
    long me = (long)argument;
    char set[32], data[PIECE], back[PIECE];
    uint64_t newest;
    snprintf(set, sizeof set, "of-%ld", me);
    for (uint64_t version = 1; version <= VERSIONS; version++) {
        memset(data, (int)(me * 17 + (long)version), PIECE);
        int writer = hayate_ckpt_begin(ckpt, set, version, 0, 1, NULL);
        CHECK(writer >= 0);
        GIVES(PIECE, hayate_ckpt_write(writer, "field", data, PIECE, 0));
        GIVES(0, hayate_ckpt_commit(writer, 1));
        GIVES(1, hayate_ckpt_latest(ckpt, set, 0, &newest));
        GIVES(version, newest);
        GIVES(PIECE, hayate_ckpt_read(ckpt, set, version, "field", back, PIECE, 0));
        CHECK(memcmp(data, back, PIECE) == 0);
        FAILS(ENOENT, hayate_ckpt_size(ckpt, set, version, set));
    }
    CHECK(strstr(hayate_last_error(), set) != NULL); /* Not another thread's. */
    return NULL;
}

struct half {
    int writer, number;
};

/* Every other piece of one region, and a region of its own. */
static void *writes_half(void *argument) {
    struct half *half = argument;
    char data[PIECE], name[16];
    snprintf(name, sizeof name, "own-%d", half->number);
    for (int part = half->number; part < PARTS; part += 2) {
        memset(data, part + 1, PIECE);
        GIVES(PIECE, hayate_ckpt_write(half->writer, "both", data, PIECE, (uint64_t)part * PIECE));
        GIVES(PIECE, hayate_ckpt_write(half->writer, name, data, PIECE, (uint64_t)part * PIECE));
    }
    return NULL;
}

/* Both say that it is good: one of them is heard, the other finds that it is over. */
static void *commits(void *argument) {
    struct half *half = argument;
    int verdict = hayate_ckpt_commit(half->writer, 1);
    CHECK(verdict == 0 || verdict == -EBADF || verdict == -EINVAL);
    return (void *)(intptr_t)(verdict == 0);
}

static void two_on_one_writer(void) {
    struct half halves[2];
    pthread_t threads[2];
    char back[PIECE];
    void *won;
    intptr_t winners = 0;
    int writer = hayate_ckpt_begin(ckpt, "one", 1, 0, 1, NULL);
    CHECK(writer >= 0);
    for (int i = 0; i < 2; i++) {
        halves[i] = (struct half){writer, i};
        CHECK(pthread_create(&threads[i], NULL, writes_half, &halves[i]) == 0);
    }
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, commits, &halves[i]) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], &won) == 0);
        winners += (intptr_t)won;
    }
    CHECK(winners == 1);
    GIVES((long)PARTS * PIECE, hayate_ckpt_size(ckpt, "one", 1, "both"));
    for (int part = 0; part < PARTS; part++) {
        GIVES(PIECE, hayate_ckpt_read(ckpt, "one", 1, "both", back, PIECE, (uint64_t)part * PIECE));
        CHECK(back[0] == part + 1 && back[PIECE - 1] == part + 1);
        GIVES(PIECE, hayate_ckpt_read(ckpt, "one", 1, part % 2 ? "own-1" : "own-0", back, PIECE, (uint64_t)part * PIECE));
        CHECK(back[0] == part + 1 && back[PIECE - 1] == part + 1);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    pthread_t threads[THREADS];
    fs = hayate_connect(argv[1]);
    CHECK(fs >= 0);
    GIVES(0, hayate_mkdir(fs, "/t", 0700));
    shared = hayate_open(fs, "/shared", O_RDWR | O_CREAT, 0600);
    CHECK(shared >= 0);
    for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    hayate_stat_t stat;
    GIVES(0, hayate_fstat(shared, &stat));
    GIVES((long)THREADS * ROUNDS * PIECE, stat.size);
    ckpt = hayate_ckpt_open(fs, "/checkpoints", "run", NULL);
    CHECK(ckpt >= 0);
    for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, saves, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    two_on_one_writer();
    GIVES(0, hayate_ckpt_close(ckpt));
    GIVES(0, hayate_disconnect(fs));
    return 0;
}
