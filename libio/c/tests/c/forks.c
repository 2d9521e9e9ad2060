/* Goal: a forked child is told clearly that its parent's connection is not its own, makes one, and does not disturb its parent, while threads of
 * the parent are inside the library. Method: many forks under load; children end by exit(3). Argument: the cluster file. */
#include "check.h"

enum { FORKS = 40, THREADS = 2 };

static int fs, file;
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

static void child(int number) {
    char path[64], room[8];
    hayate_stat_t stat;
    alarm(60);
    FAILS(ENOTCONN, hayate_stat(fs, "/", &stat));
    CHECK(strstr(hayate_last_error(), "forked") != NULL);
    FAILS(ENOTCONN, hayate_pread(file, room, 8, 0));
    FAILS(ENOTCONN, hayate_close(file));
    FAILS(ENOTCONN, hayate_disconnect(fs));
    if (number % 2) exit(0); /* Some do nothing but end. */
    int own = hayate_connect(cluster);
    CHECK(own >= 0 && own != fs);
    snprintf(path, sizeof path, "/child-%d", number);
    GIVES(5, hayate_put(own, path, "child", 5, 0600));
    FAILS(ENOTCONN, hayate_stat(fs, "/", &stat));
    GIVES(0, hayate_disconnect(own));
    exit(0);
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
    GIVES(0, hayate_disconnect(fs));
    return 0;
}
