/* Goal: a forked child is told clearly that its parent's connection, checkpoints and writers are not its own, makes a connection, and does not disturb its parent, while threads of
 * the parent are inside the library. Method: many forks under load; children end by exit(3). Argument: the cluster file. */
#include "check.h"

enum { FORKS = 40, THREADS = 2 };

static int fs, file, ckpt, writer, sealed;
static const char *cluster;
static volatile int stop;

static void *load(void *argument) {
    long me = (long)argument;
    char room[1024];
    hayate_stat_t stat;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        GIVES(1024, hayate_pwrite(file, room, 1024, me * 4096));
        GIVES(0, hayate_stat(fs, "/", &stat));
    }
    return NULL;
}

/* The version that the parent is writing is not the child's, whatever it tries. */
static void childs_checkpoints(void) {
    uint64_t newest;
    hayate_ckpt_info_t info;
    FAILS(ENOTCONN, hayate_ckpt_write(writer, "field", "child", 5, 0));
    FAILS(ENOTCONN, hayate_ckpt_write_all(writer));
    FAILS(ENOTCONN, hayate_ckpt_seal(writer, 0));
    FAILS(ENOTCONN, hayate_ckpt_commit(writer, 0));
    FAILS(ENOTCONN, hayate_ckpt_abort(writer));
    FAILS(ENOTCONN, hayate_ckpt_test(sealed));
    FAILS(ENOTCONN, hayate_ckpt_join(sealed, 1));
    FAILS(ENOTCONN, hayate_ckpt_begin(ckpt, "set", 2, 0, 1, NULL));
    FAILS(ENOTCONN, hayate_ckpt_latest(ckpt, "set", 0, &newest));
    FAILS(ENOTCONN, hayate_ckpt_list(ckpt, "set", &info, sizeof info, 1));
    FAILS(ENOTCONN, hayate_ckpt_read_all(ckpt, "set", 1));
    FAILS(ENOTCONN, hayate_ckpt_finish(ckpt, "set", 1, 0));
    FAILS(ENOTCONN, hayate_ckpt_remove(ckpt, "set", 1));
    FAILS(ENOTCONN, hayate_ckpt_close(ckpt));
}

static void child(int number) {
    char path[64], room[8];
    hayate_stat_t stat;
    FAILS(ENOTCONN, hayate_stat(fs, "/", &stat));
    CHECK(strstr(hayate_last_error(), "forked") != NULL);
    FAILS(ENOTCONN, hayate_pread(file, room, 8, 0));
    FAILS(ENOTCONN, hayate_close(file));
    childs_checkpoints();
    FAILS(ENOTCONN, hayate_disconnect(fs));
    if (number % 2) exit(0); /* Some do nothing but end. */
    int own = hayate_connect(cluster);
    CHECK(own >= 0 && own != fs);
    snprintf(path, sizeof path, "/child-%d", number);
    GIVES(5, hayate_put(own, path, "child", 5, 0600));
    FAILS(ENOTCONN, hayate_stat(fs, "/", &stat));
    /* With its own connection it has checkpoints of its own. */
    int sets = hayate_ckpt_open(own, "/checkpoints", "child", NULL);
    GIVES(number > 0, hayate_ckpt_latest(sets, "childs", 0, &(uint64_t){0}));
    int part = hayate_ckpt_begin(sets, "childs", (uint64_t)number + 1, 0, 1, NULL);
    GIVES(5, hayate_ckpt_write(part, "field", "child", 5, 0));
    GIVES(0, hayate_ckpt_commit(part, 1));
    GIVES(0, hayate_disconnect(own));
    exit(0);
}

static void begins(void) {
    ckpt = hayate_ckpt_open(fs, "/checkpoints", "parent", NULL);
    CHECK(ckpt >= 0);
    writer = hayate_ckpt_begin(ckpt, "set", 1, 0, 2, NULL);
    sealed = hayate_ckpt_begin(ckpt, "set", 1, 1, 2, NULL);
    CHECK(writer >= 0 && sealed >= 0);
    GIVES(6, hayate_ckpt_write(writer, "field", "parent", 6, 0));
    GIVES(6, hayate_ckpt_write(sealed, "field", "sealed", 6, 6));
    GIVES(0, hayate_ckpt_seal(sealed, 1));
}

static void commits(void) {
    char room[16];
    GIVES(0, hayate_ckpt_commit(writer, 1));
    GIVES(1, hayate_ckpt_test(sealed));
    GIVES(12, hayate_ckpt_read(ckpt, "set", 1, "field", room, sizeof room, 0));
    CHECK(memcmp(room, "parentsealed", 12) == 0);
    GIVES(0, hayate_ckpt_close(ckpt));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    pthread_t threads[THREADS];
    hayate_stat_t stat;
    char path[64];
    cluster = argv[1];
    fs = hayate_connect(cluster);
    CHECK(fs >= 0);
    file = hayate_open(fs, "/busy", O_RDWR | O_CREAT, 0600);
    CHECK(file >= 0);
    begins();
    for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, load, (void *)i) == 0);
    for (int i = 0; i < FORKS; i++) {
        int status;
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) child(i);
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        snprintf(path, sizeof path, "/child-%d", i);
        if (i % 2 == 0) GIVES(0, hayate_stat(fs, path, &stat));
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    commits();
    GIVES(0, hayate_disconnect(fs));
    return 0;
}
