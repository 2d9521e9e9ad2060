/* Goal: each way in which checkpoints fail has the number of the table in docs/clients.md, on the ranks that it says, and the version before stays. Method: two ranks of one program, in a
 * cluster without a shared tier; another group; files that are changed behind the library's back. Lost servers, full ones and an absent tier are tested in Rust, MPI's ranks in
 * mpi.c. Argument: the cluster file. */
#include "damage.h"

static int fs, ckpt;

static int begins(uint64_t version, uint32_t rank) {
    int writer = hayate_ckpt_begin(ckpt, "set", version, rank, 2, NULL);
    CHECK(writer >= 0);
    GIVES(5, hayate_ckpt_write(writer, "field", rank ? "right" : "left ", 5, 5 * rank));
    return writer;
}

static void *commits(void *writer) { return (void *)(intptr_t)hayate_ckpt_commit(*(int *)writer, 1); }

/* Both ranks commit, each in its own thread, and get these. */
static void both_commit(int first, int second, int one, int two) {
    pthread_t thread;
    void *verdict;
    CHECK(pthread_create(&thread, NULL, commits, &first) == 0);
    GIVES(two, hayate_ckpt_commit(second, 1));
    CHECK(pthread_join(thread, &verdict) == 0);
    GIVES(one, (intptr_t)verdict);
}

static void saves(uint64_t version) {
    int first = begins(version, 0);
    both_commit(first, begins(version, 1), 0, 0);
}

static void newest_is(uint64_t version) {
    uint64_t newest = 0;
    char room[16];
    GIVES(1, hayate_ckpt_latest(ckpt, "set", 0, &newest));
    GIVES(version, newest);
    GIVES(10, hayate_ckpt_read(ckpt, "set", newest, "field", room, sizeof room, 0));
    CHECK(memcmp(room, "left right", 10) == 0);
}

static void bad_arguments(void) {
    char name[400];
    memset(name, 'n', sizeof name);
    name[256] = 0;
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, "set", 2, 2, 2, NULL));
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, "set", 2, 0, 0, NULL));
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, "set", UINT64_MAX, 0, 1, NULL));
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, name, 2, 0, 1, NULL));
    hayate_ckpt_options_t options = {.size = sizeof options, .copies = 7};
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, "set", 2, 0, 1, &options)); /* There are three servers. */
    FAILS(EINVAL, hayate_ckpt_wait(ckpt, "set", 1, HAYATE_CKPT_DURABLE, 60000)); /* At once: there is no tier. */
    /* Without consequence for the version. */
    int first = begins(2, 0);
    FAILS(EINVAL, hayate_ckpt_write(first, name, "x", 1, 0));
    FAILS(EINVAL, hayate_ckpt_write(first, "", "x", 1, 0));
    both_commit(first, begins(2, 1), 0, 0);
    newest_is(2);
}

/* The rank that says another number hears of it, all others that the version was given up. */
static void other_number_of_ranks(void) {
    int first = begins(3, 0);
    FAILS(EINVAL, hayate_ckpt_begin(ckpt, "set", 3, 1, 3, NULL));
    CHECK(strstr(hayate_last_error(), "2 ranks") != NULL);
    FAILS(ECANCELED, hayate_ckpt_commit(first, 1));
    newest_is(2);
}

/* All ranks of the group that came first. */
static void two_groups(void) {
    int first = begins(3, 0), second = begins(3, 1);
    int other = hayate_ckpt_open(fs, "/checkpoints", "other", NULL);
    int taken = hayate_ckpt_begin(other, "set", 3, 0, 2, NULL);
    CHECK(taken >= 0);
    both_commit(first, second, -EBUSY, -EBUSY);
    FAILS(EBUSY, hayate_ckpt_begin(ckpt, "set", 3, 0, 2, NULL));
    GIVES(0, hayate_ckpt_abort(taken));
    GIVES(0, hayate_ckpt_close(other));
    newest_is(2);
}

/* One says no, and one does not come: all that are there hear the same. */
static void given_up(void) {
    int first = begins(4, 0), second = begins(4, 1);
    FAILS(ECANCELED, hayate_ckpt_commit(second, 0));
    FAILS(ECANCELED, hayate_ckpt_commit(first, 1));
    FAILS(ECANCELED, hayate_ckpt_wait(ckpt, "set", 4, HAYATE_CKPT_COMMITTED, 60000));
    first = begins(5, 0);
    FAILS(ETIMEDOUT, hayate_ckpt_wait(ckpt, "set", 5, HAYATE_CKPT_SEALED, 5));
    GIVES(0, hayate_ckpt_seal(first, 1));
    FAILS(ECANCELED, hayate_ckpt_join(first, 5));
    newest_is(2);
}

static void finished(void) {
    saves(6);
    FAILS(EEXIST, hayate_ckpt_begin(ckpt, "set", 6, 0, 2, NULL));
    GIVES(0, hayate_ckpt_wait(ckpt, "set", 6, HAYATE_CKPT_SEALED, 60000));
    GIVES(0, hayate_ckpt_finish(ckpt, "set", 6, 0));
    FAILS(ENOTRECOVERABLE, hayate_ckpt_wait(ckpt, "set", 6, HAYATE_CKPT_COMMITTED, 60000));
    FAILS(ENOENT, hayate_ckpt_finish(ckpt, "set", 99, 1));
    FAILS(ENOENT, hayate_ckpt_state(ckpt, "set", 99));
    newest_is(2);
}

/* Only who reads what is damaged. */
static void damaged(void) {
    char room[16];
    saves(7);
    damage(fs, "set", 7, 1);
    GIVES(5, hayate_ckpt_read(ckpt, "set", 7, "field", room, 5, 0));
    FAILS(EIO, hayate_ckpt_read(ckpt, "set", 7, "field", room, 5, 5));
    CHECK(strstr(hayate_last_error(), "damaged") != NULL);
    GIVES(0, hayate_ckpt_protect(ckpt, "field", room, 10, 0));
    FAILS(EIO, hayate_ckpt_read_all(ckpt, "set", 7));
    GIVES(0, hayate_ckpt_protect(ckpt, "field", room, 10, 5));
    FAILS(EINVAL, hayate_ckpt_read_all(ckpt, "set", 2)); /* The region ends before. */
    GIVES(2, hayate_ckpt_unprotect(ckpt, "field"));
    GIVES(0, hayate_ckpt_finish(ckpt, "set", 7, 0));
    newest_is(2);
}

/* A manifest of a format to come. */
static void of_another_release(void) {
    static const char path[] = "/checkpoints/set/versions/00000000000000000008", begin[] = "hayate-ckpt ";
    static char text[100000];
    saves(8);
    int64_t size = hayate_get(fs, path, text, sizeof text);
    CHECK(size > 0 && memcmp(text, begin, sizeof begin - 1) == 0 && text[sizeof begin] == ' ');
    text[sizeof begin - 1] = '9';
    GIVES(size, hayate_put(fs, path, text, (size_t)size, 0600));
    FAILS(EPROTO, hayate_ckpt_size(ckpt, "set", 8, "field"));
    FAILS(EPROTO, hayate_ckpt_state(ckpt, "set", 8));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    fs = hayate_connect(argv[1]);
    CHECK(fs >= 0);
    ckpt = hayate_ckpt_open(fs, "/checkpoints", "run", NULL);
    saves(1);
    newest_is(1);
    bad_arguments();
    other_number_of_ranks();
    two_groups();
    given_up();
    finished();
    damaged();
    of_another_release();
    GIVES(0, hayate_ckpt_close(ckpt));
    GIVES(0, hayate_disconnect(fs));
    return 0;
}
