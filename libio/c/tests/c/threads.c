/* Goal: any thread may use any connection and file at any time. Method: eight write and read their parts of one file and files of their own, list and
 * close what others use; each has its own last error. Argument: the cluster file. */
#include "check.h"

enum { THREADS = 8, ROUNDS = 60, PIECE = 5000 };

static int fs, shared;

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
    GIVES(0, hayate_disconnect(fs));
    return 0;
}
