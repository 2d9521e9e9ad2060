/* Goal: what the header says of the shared tier. Method: a file and a version whose directory waits for a demand, until they are there; a version that servers bring there by themselves. Argument: the
 * file of a cluster with a shared tier. */
#include "check.h"

static int is_durable(int fs, const char *path) {
    char value[8] = "";
    CHECK(hayate_getxattr(fs, path, "user.hayate.durable", value, sizeof value) > 0);
    CHECK(strncmp(value, "yes", 3) == 0 || strncmp(value, "no", 2) == 0);
    return value[0] == 'y';
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    int fs = hayate_connect(argv[1]);
    CHECK(fs >= 0);
    GIVES(0, hayate_mkdir(fs, "/waits", 0700));
    GIVES(0, hayate_setxattr(fs, "/waits", "user.hayate.flush", "demand", 6, 0));
    int file = hayate_open(fs, "/waits/file", O_RDWR | O_CREAT, 0600);
    CHECK(file >= 0);
    GIVES(7, hayate_pwrite(file, "durable", 7, 0));
    CHECK(!is_durable(fs, "/waits/file"));
    FAILS(ENOENT, hayate_tier_flush(fs, "/waits/none"));
    GIVES(0, hayate_tier_flush(fs, "/waits/file"));
    CHECK(!is_durable(fs, "/waits/file")); /* It is being written. */
    GIVES(0, hayate_close(file));
    while (!is_durable(fs, "/waits/file")) usleep(5000);
    GIVES(7, hayate_put(fs, "/waits/file", "changed", 7, 0600));
    CHECK(!is_durable(fs, "/waits/file"));
    GIVES(0, hayate_tier_flush(fs, "/waits/file"));
    while (!is_durable(fs, "/waits/file")) usleep(5000);

    int ckpt = hayate_ckpt_open(fs, "/durable", "run", NULL);
    hayate_ckpt_options_t options = {.size = sizeof options, .flush = "close"};
    int writer = hayate_ckpt_begin(ckpt, "set", 1, 0, 1, &options);
    GIVES(7, hayate_ckpt_write(writer, "field", "version", 7, 0));
    GIVES(0, hayate_ckpt_commit(writer, 1));
    GIVES(0, hayate_ckpt_wait(ckpt, "set", 1, HAYATE_CKPT_SEALED, 60000));
    GIVES(0, hayate_ckpt_wait(ckpt, "set", 1, HAYATE_CKPT_DURABLE, 60000));
    GIVES(HAYATE_CKPT_DURABLE, hayate_ckpt_state(ckpt, "set", 1));
    double seconds = -1;
    int known = hayate_ckpt_drain_time(ckpt, 1 << 20, &seconds);
    CHECK(known == 0 || (known == 1 && seconds > 0));
    GIVES(0, hayate_disconnect(fs));
    return 0;
}
