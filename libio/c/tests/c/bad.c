/* Goal: whatever a program passes, it gets an errno and words, and goes on. Method: null pointers, numbers of nothing, wrong flags, names too
 * long, a cluster file that is not there. Argument: the cluster file. */
#include "check.h"

static void nulls(int fs, int file) {
    hayate_stat_t stat;
    char room[8];
    FAILS(EFAULT, hayate_open(fs, NULL, O_RDONLY, 0));
    FAILS(EFAULT, hayate_open_with(fs, NULL, O_RDONLY, 0, NULL));
    FAILS(EFAULT, hayate_pread(file, NULL, 1, 0));
    FAILS(EFAULT, hayate_pwrite(file, NULL, 1, 0));
    FAILS(EFAULT, hayate_append(file, NULL, 1));
    FAILS(EFAULT, hayate_fstat(file, NULL));
    FAILS(EFAULT, hayate_stat(fs, NULL, &stat));
    FAILS(EFAULT, hayate_stat(fs, "/", NULL));
    FAILS(EFAULT, hayate_lstat(fs, NULL, &stat));
    FAILS(EFAULT, hayate_lstat(fs, "/", NULL));
    FAILS(EFAULT, hayate_truncate(fs, NULL, 0));
    FAILS(EFAULT, hayate_chmod(fs, NULL, 0));
    FAILS(EFAULT, hayate_chown(fs, NULL, 0, 0));
    FAILS(EFAULT, hayate_utime(fs, NULL, 0, 0));
    FAILS(EFAULT, hayate_mkdir(fs, NULL, 0));
    FAILS(EFAULT, hayate_mkdir_all(fs, NULL, 0));
    FAILS(EFAULT, hayate_unlink(fs, NULL));
    FAILS(EFAULT, hayate_rmdir(fs, NULL));
    FAILS(EFAULT, hayate_rename(fs, NULL, "/b"));
    FAILS(EFAULT, hayate_rename(fs, "/a", NULL));
    FAILS(EFAULT, hayate_link(fs, NULL, "/b"));
    FAILS(EFAULT, hayate_link(fs, "/a", NULL));
    FAILS(EFAULT, hayate_symlink(fs, NULL, "/b"));
    FAILS(EFAULT, hayate_symlink(fs, "/a", NULL));
    FAILS(EFAULT, hayate_readlink(fs, NULL, room, 8));
    FAILS(EFAULT, hayate_readlink(fs, "/a", NULL, 8));
    FAILS(EFAULT, hayate_put(fs, NULL, "", 0, 0600));
    FAILS(EFAULT, hayate_put(fs, "/a", NULL, 1, 0600));
    FAILS(EFAULT, hayate_get(fs, NULL, room, 8));
    FAILS(EFAULT, hayate_get(fs, "/a", NULL, 8));
    FAILS(EFAULT, hayate_opendir(fs, NULL, 0));
    FAILS(EFAULT, hayate_setxattr(fs, NULL, "user.a", "", 0, 0));
    FAILS(EFAULT, hayate_setxattr(fs, "/", NULL, "", 0, 0));
    FAILS(EFAULT, hayate_setxattr(fs, "/", "user.a", NULL, 1, 0));
    FAILS(EFAULT, hayate_getxattr(fs, NULL, "user.a", room, 8));
    FAILS(EFAULT, hayate_getxattr(fs, "/", NULL, room, 8));
    FAILS(EFAULT, hayate_getxattr(fs, "/", "user.a", NULL, 8));
    FAILS(EFAULT, hayate_listxattr(fs, NULL, room, 8));
    FAILS(EFAULT, hayate_listxattr(fs, "/", NULL, 8));
    FAILS(EFAULT, hayate_removexattr(fs, NULL, "user.a"));
    FAILS(EFAULT, hayate_removexattr(fs, "/", NULL));
    FAILS(EFAULT, hayate_statfs(fs, NULL));
    FAILS(EFAULT, hayate_tier_flush(fs, NULL));
    int list = hayate_opendir(fs, "/", 0);
    FAILS(EFAULT, hayate_readdir(list, NULL));
    GIVES(0, hayate_closedir(list));
}

static void numbers(void) {
    static const int none[] = {-1, 1 << 19, (1 << 27) - 1, -2147483647 - 1, 77};
    hayate_stat_t stat;
    hayate_entry_t entry;
    hayate_space_t space;
    char room[8];
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        FAILS(EBADF, hayate_disconnect(none[i]));
        FAILS(EBADF, hayate_open(none[i], "/a", O_RDONLY, 0));
        FAILS(EBADF, hayate_close(none[i]));
        FAILS(EBADF, hayate_pread(none[i], room, 8, 0));
        FAILS(EBADF, hayate_pwrite(none[i], room, 8, 0));
        FAILS(EBADF, hayate_append(none[i], room, 8));
        FAILS(EBADF, hayate_fsync(none[i]));
        FAILS(EBADF, hayate_flush(none[i]));
        FAILS(EBADF, hayate_ftruncate(none[i], 0));
        FAILS(EBADF, hayate_fstat(none[i], &stat));
        FAILS(EBADF, hayate_stat(none[i], "/", &stat));
        FAILS(EBADF, hayate_mkdir(none[i], "/a", 0700));
        FAILS(EBADF, hayate_opendir(none[i], "/", 0));
        FAILS(EBADF, hayate_readdir(none[i], &entry));
        FAILS(EBADF, hayate_closedir(none[i]));
        FAILS(EBADF, hayate_statfs(none[i], &space));
        FAILS(EBADF, hayate_put(none[i], "/a", "", 0, 0600));
    }
}

static void values(int fs, int file) {
    char name[400], room[8];
    memset(name, 'n', sizeof name);
    name[0] = '/';
    name[sizeof name - 1] = 0;
    FAILS(ENAMETOOLONG, hayate_mkdir(fs, name, 0700));
    FAILS(ENOENT, hayate_mkdir(fs, "", 0700));
    FAILS(EINVAL, hayate_pread(file, room, 8, -1));
    FAILS(EINVAL, hayate_pwrite(file, room, 8, -1));
    FAILS(EINVAL, hayate_pwrite(file, room, SIZE_MAX, 0));
    FAILS(EINVAL, hayate_pread(file, room, SIZE_MAX / 2 + 1, 0));
    FAILS(EINVAL, hayate_ftruncate(file, -1));
    FAILS(EINVAL, hayate_truncate(fs, "/file", -1));
    FAILS(EINVAL, hayate_open(fs, "/file", O_ACCMODE, 0));
    FAILS(EINVAL, hayate_open(fs, "/file", O_RDONLY | O_DIRECTORY, 0));
    FAILS(EISDIR, hayate_open(fs, "/", O_RDONLY, 0));
    hayate_open_options_t options = {4, NULL, 0};
    FAILS(EINVAL, hayate_open_with(fs, "/new", O_RDWR | O_CREAT, 0600, &options));
    CHECK(strstr(hayate_last_error(), "sizeof") != NULL);
    const char *no_layouts[] = {"", "nowhere", "writer,chunk=3M", "writer,", "\xff"};
    options.size = sizeof options;
    for (size_t i = 0; i < sizeof no_layouts / sizeof *no_layouts; i++) {
        options.layout = no_layouts[i];
        FAILS(EINVAL, hayate_open_with(fs, "/new", O_RDWR | O_CREAT, 0600, &options));
        CHECK(strstr(hayate_last_error(), "striped, local or writer") != NULL);
    }
    hayate_stat_t stat;
    FAILS(ENOENT, hayate_stat(fs, "/new", &stat));
    FAILS(EFBIG, hayate_pwrite(file, room, 8, INT64_MAX - 4));
}

static void clusters(const char *good) {
    hayate_options_t options = {4, 0, 0, 0};
    FAILS(EINVAL, hayate_connect("/nowhere/cluster.toml"));
    CHECK(strstr(hayate_last_error(), "/nowhere/cluster.toml") != NULL);
    FAILS(EINVAL, hayate_connect("/dev/null"));
    FAILS(EINVAL, hayate_connect(""));
    FAILS(EINVAL, hayate_connect_with(good, &options));
    CHECK(strstr(hayate_last_error(), "sizeof") != NULL);
    setenv("HAYATE_CLUSTER", good, 1);
    int fs = hayate_connect_with(NULL, NULL);
    CHECK(fs >= 0);
    GIVES(0, hayate_disconnect(fs));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    CHECK(strcmp(hayate_last_error(), "") == 0);
    numbers(); /* Before anything is connected, too. */
    int fs = hayate_connect(argv[1]);
    CHECK(fs >= 0);
    int file = hayate_open(fs, "/file", O_RDWR | O_CREAT, 0600);
    CHECK(file >= 0);
    nulls(fs, file);
    numbers();
    values(fs, file);
    clusters(argv[1]);
    GIVES(2, hayate_pwrite(file, "ok", 2, 0)); /* Nothing of that disturbed it. */
    GIVES(0, hayate_close(file));
    GIVES(0, hayate_disconnect(fs));
    return 0;
}
