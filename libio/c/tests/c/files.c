/* Goal: every function of the file API does what its comment says. Method: each is called on a real cluster, and what it did is looked at by
 * another. Argument: the cluster file. */
#include "check.h"

static int fs;

static hayate_stat_t look(const char *path) {
    hayate_stat_t stat;
    GIVES(0, hayate_stat(fs, path, &stat));
    return stat;
}

static void files(void) {
    char room[64];
    hayate_stat_t stat;
    umask(027);
    int file = hayate_open(fs, "/d/file", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    CHECK(file >= 0);
    FAILS(EEXIST, hayate_open(fs, "/d/file", O_RDWR | O_CREAT | O_EXCL, 0666));
    GIVES(5, hayate_pwrite(file, "hello", 5, 10));
    GIVES(0, hayate_flush(file));
    GIVES(0, hayate_fsync(file));
    GIVES(15, hayate_pread(file, room, sizeof room, 0));
    CHECK(memcmp(room, "\0\0\0\0\0\0\0\0\0\0hello", 15) == 0);
    GIVES(0, hayate_pread(file, room, sizeof room, 15));
    GIVES(15, hayate_append(file, "!", 1));
    GIVES(0, hayate_fstat(file, &stat));
    CHECK(stat.size == 16 && S_ISREG(stat.mode) && (stat.mode & 07777) == 0640 && stat.nlink == 1);
    CHECK(stat.uid == geteuid() && stat.chunk_bytes >= 65536 && stat.mtime_ns > 1000000000LL * 1700000000);
    GIVES(0, hayate_ftruncate(file, 12));
    GIVES(0, hayate_close(file));
    FAILS(EBADF, hayate_close(file));
    FAILS(EBADF, hayate_pread(file, room, 1, 0));
    CHECK(look("/d/file").size == 12);

    file = hayate_open(fs, "/d/file", O_WRONLY | O_APPEND | O_SYNC, 0);
    GIVES(3, hayate_pwrite(file, "end", 3, 0)); /* As on Linux, at the end. */
    FAILS(EBADF, hayate_pread(file, room, 1, 0));
    GIVES(0, hayate_close(file));
    file = hayate_open(fs, "/d/file", O_RDONLY, 0);
    FAILS(EBADF, hayate_pwrite(file, "x", 1, 0));
    FAILS(EINVAL, hayate_ftruncate(file, 0));
    GIVES(5, hayate_pread(file, room, sizeof room, 10));
    CHECK(memcmp(room, "heend", 5) == 0);
    GIVES(0, hayate_close(file));
    file = hayate_open(fs, "/d/file", O_WRONLY | O_TRUNC, 0);
    GIVES(0, hayate_close(file));
    CHECK(look("/d/file").size == 0);
}

/* What an open file's layout is, which names the size of its chunks if that was asked for, and that size. */
static void laid_out(const char *path, const char *layout, const char *found, uint64_t expected, uint32_t chunk_bytes) {
    char text[64] = {0};
    hayate_stat_t stat;
    hayate_open_options_t options = {.size = sizeof options, .layout = layout, .expected_bytes = expected};
    int file = hayate_open_with(fs, path, O_RDWR | O_CREAT, 0666, &options);
    CHECK(file >= 0);
    GIVES(0, hayate_fstat(file, &stat));
    CHECK(stat.chunk_bytes == chunk_bytes);
    CHECK(hayate_getxattr(fs, path, "user.hayate.layout", text, sizeof text) > 0);
    CHECK(strcmp(text, found) == 0);
    GIVES(0, hayate_close(file));
}

static void layouts(void) {
    GIVES(0, hayate_mkdir(fs, "/d/layouts", 0777));
    laid_out("/d/layouts/writer", "writer", "writer", 0, 1 << 20);
    laid_out("/d/layouts/chunk", "striped,chunk=64K", "striped,chunk=64K", 0, 1 << 16);
    laid_out("/d/layouts/usual", NULL, "striped", 0, 1 << 20);
    /* The size of chunks follows what is expected, and not if it is said. */
    hayate_open_options_t large = {.size = sizeof large, .expected_bytes = 1ULL << 40};
    hayate_stat_t stat;
    int file = hayate_open_with(fs, "/d/layouts/large", O_RDWR | O_CREAT, 0666, &large);
    GIVES(0, hayate_fstat(file, &stat));
    CHECK(stat.chunk_bytes > 1 << 20);
    GIVES(0, hayate_close(file));
    laid_out("/d/layouts/said", "writer,chunk=2M", "writer,chunk=2M", 1ULL << 40, 1 << 21);
    /* A file that is there keeps its own; without options it is as hayate_open. */
    laid_out("/d/layouts/writer", "striped,chunk=64K", "writer", 0, 1 << 20);
    GIVES(0, hayate_close(hayate_open_with(fs, "/d/layouts/usual", O_RDONLY, 0, NULL)));
    /* A program of an older release, which knows of the layout only. */
    large.size = offsetof(hayate_open_options_t, expected_bytes);
    file = hayate_open_with(fs, "/d/layouts/older", O_RDWR | O_CREAT, 0666, &large);
    GIVES(0, hayate_fstat(file, &stat));
    CHECK(stat.chunk_bytes == 1 << 20);
    GIVES(0, hayate_close(file));
}

/* Larger than a chunk, and than what lies with an inode. */
static void much(void) {
    size_t size = (3 << 20) + 77;
    char *data = malloc(size), *back = malloc(size);
    for (size_t at = 0; at < size; at++) data[at] = (char)(at * 31 >> 3);
    int file = hayate_open(fs, "/d/much", O_RDWR | O_CREAT, 0600);
    GIVES(size, hayate_pwrite(file, data, size, 0));
    GIVES(size, hayate_pread(file, back, size, 0));
    CHECK(memcmp(data, back, size) == 0);
    GIVES(0, hayate_close(file));
    memset(back, 0, size);
    GIVES(size, hayate_get(fs, "/d/much", back, size));
    CHECK(memcmp(data, back, size) == 0);
    GIVES(size, hayate_put(fs, "/d/put", data, size, 0666));
    CHECK(look("/d/put").size == size);
    int from = hayate_open(fs, "/d/much", O_RDONLY, 0), to = hayate_open(fs, "/d/copy", O_RDWR | O_CREAT, 0600);
    GIVES(size, hayate_copy(from, 0, to, 100, UINT64_MAX >> 1));
    memset(back, 0, size);
    GIVES(size, hayate_pread(to, back, size, 100));
    CHECK(memcmp(data, back, size) == 0);
    FAILS(EBADF, hayate_copy(to, 0, from, 0, 1));
    FAILS(EINVAL, hayate_copy(from, -1, to, 0, 1));
    FAILS(EBADF, hayate_copy(from, 0, -1, 0, 1));
    GIVES(0, hayate_close(from));
    GIVES(0, hayate_close(to));
    free(data);
    free(back);
}

static void whole(void) {
    char room[8] = "unharmed";
    GIVES(5, hayate_put(fs, "/d/small", "small", 5, 0666));
    FAILS(ERANGE, hayate_get(fs, "/d/small", room, 4));
    CHECK(memcmp(room, "unharmed", 8) == 0);
    GIVES(5, hayate_get(fs, "/d/small", room, sizeof room));
    CHECK(memcmp(room, "small", 5) == 0);
    GIVES(0, hayate_put(fs, "/d/small", NULL, 0, 0666));
    GIVES(0, hayate_get(fs, "/d/small", NULL, 0));
    FAILS(ENOENT, hayate_get(fs, "/d/none", room, sizeof room));
    CHECK(strstr(hayate_last_error(), "/d/none") != NULL);
}

static void attributes(void) {
    hayate_stat_t stat;
    GIVES(3, hayate_put(fs, "/d/a", "abc", 3, 0666));
    GIVES(0, hayate_chmod(fs, "/d/a", 04711));
    CHECK((look("/d/a").mode & 07777) == 04711);
    if (geteuid() == 0) {
        GIVES(0, hayate_chown(fs, "/d/a", 11, UINT32_MAX));
        CHECK(look("/d/a").uid == 11 && look("/d/a").gid == getegid());
    }
    GIVES(0, hayate_utime(fs, "/d/a", INT64_MIN, 1234567890123456789));
    CHECK(look("/d/a").mtime_ns == 1234567890123456789);
    GIVES(0, hayate_utime(fs, "/d/a", INT64_MAX, INT64_MAX));
    CHECK(look("/d/a").mtime_ns > 1234567890123456789);
    GIVES(0, hayate_truncate(fs, "/d/a", 1));
    CHECK(look("/d/a").size == 1);
    GIVES(0, hayate_symlink(fs, "a", "/d/l"));
    GIVES(0, hayate_lstat(fs, "/d/l", &stat));
    CHECK(S_ISLNK(stat.mode) && S_ISREG(look("/d/l").mode));
}

static void names(void) {
    char room[8];
    GIVES(0, hayate_mkdir(fs, "/d/sub", 0777));
    CHECK(S_ISDIR(look("/d/sub").mode) && (look("/d/sub").mode & 07777) == 0750);
    FAILS(EEXIST, hayate_mkdir(fs, "/d/sub", 0777));
    GIVES(0, hayate_mkdir_all(fs, "/d/x/y/z", 0700));
    GIVES(0, hayate_mkdir_all(fs, "/d/x/y/z", 0700));
    GIVES(1, hayate_put(fs, "/d/sub/one", "1", 1, 0600));
    FAILS(ENOTEMPTY, hayate_rmdir(fs, "/d/sub"));
    GIVES(0, hayate_link(fs, "/d/sub/one", "/d/sub/two"));
    CHECK(look("/d/sub/two").nlink == 2 && look("/d/sub/two").ino == look("/d/sub/one").ino);
    GIVES(0, hayate_rename(fs, "/d/sub", "/d/moved"));
    FAILS(ENOENT, hayate_unlink(fs, "/d/sub/one"));
    GIVES(0, hayate_unlink(fs, "/d/moved/one"));
    FAILS(EISDIR, hayate_unlink(fs, "/d/moved"));
    GIVES(0, hayate_unlink(fs, "/d/moved/two"));
    GIVES(0, hayate_rmdir(fs, "/d/moved"));
    GIVES(0, hayate_symlink(fs, "target", "/d/link"));
    GIVES(6, hayate_readlink(fs, "/d/link", room, sizeof room));
    CHECK(memcmp(room, "target", 6) == 0);
    GIVES(3, hayate_readlink(fs, "/d/link", room, 3));
    FAILS(EINVAL, hayate_readlink(fs, "/d/file", room, sizeof room));
    FAILS(EINVAL, hayate_readlink(fs, "/d/link", room, 0));
}

static void listings(void) {
    enum { FILES = 3000 };
    static char seen[FILES];
    char path[64];
    hayate_entry_t entry;
    GIVES(0, hayate_mkdir(fs, "/many", 0755));
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "/many/%d", i);
        GIVES(2, hayate_put(fs, path, "ab", 2, 0644));
    }
    for (int with = 0; with <= 1; with++) {
        int list = hayate_opendir(fs, "/many", with), more, count = 0;
        CHECK(list >= 0);
        memset(seen, 0, sizeof seen);
        while ((more = hayate_readdir(list, &entry)) == 1) {
            int i = atoi(entry.name);
            CHECK(i >= 0 && i < FILES && !seen[i] && S_ISREG(entry.kind) && (int)entry.has_stat == with);
            CHECK(!with || (entry.stat.size == 2 && entry.stat.ino == entry.ino));
            seen[i] = 1;
            count++;
        }
        GIVES(0, more);
        GIVES(FILES, count);
        GIVES(0, hayate_closedir(list));
        FAILS(EBADF, hayate_readdir(list, &entry));
    }
    FAILS(ENOTDIR, hayate_opendir(fs, "/many/1", 0));
    FAILS(ENOENT, hayate_opendir(fs, "/none", 0));
}

static void extended(void) {
    char room[64];
    GIVES(0, hayate_setxattr(fs, "/d/a", "user.one", "value", 5, 0));
    FAILS(EEXIST, hayate_setxattr(fs, "/d/a", "user.one", "other", 5, 1 /* XATTR_CREATE */));
    FAILS(ENODATA, hayate_setxattr(fs, "/d/a", "user.two", "v", 1, 2 /* XATTR_REPLACE */));
    FAILS(EINVAL, hayate_setxattr(fs, "/d/a", "user.two", "v", 1, 3));
    FAILS(EINVAL, hayate_setxattr(fs, "/d/a", "user.two", "v", 1, 8));
    GIVES(0, hayate_setxattr(fs, "/d/a", "user.two", NULL, 0, 0));
    GIVES(5, hayate_getxattr(fs, "/d/a", "user.one", NULL, 0));
    GIVES(5, hayate_getxattr(fs, "/d/a", "user.one", room, sizeof room));
    CHECK(memcmp(room, "value", 5) == 0);
    FAILS(ERANGE, hayate_getxattr(fs, "/d/a", "user.one", room, 4));
    FAILS(ENODATA, hayate_getxattr(fs, "/d/a", "user.three", room, sizeof room));
    GIVES(18, hayate_listxattr(fs, "/d/a", NULL, 0));
    GIVES(18, hayate_listxattr(fs, "/d/a", room, sizeof room));
    CHECK(memcmp(room, "user.one\0user.two", 18) == 0 || memcmp(room, "user.two\0user.one", 18) == 0);
    GIVES(0, hayate_removexattr(fs, "/d/a", "user.one"));
    FAILS(ENODATA, hayate_removexattr(fs, "/d/a", "user.one"));
}

static void space(void) {
    hayate_space_t space;
    GIVES(0, hayate_statfs(fs, &space));
    CHECK(space.total_bytes > space.free_bytes && space.free_bytes > 0 && space.inodes > 3000);
}

/* What was not closed is closed with its connection; another connection sees it. */
static void ending(const char *cluster) {
    hayate_options_t options = {sizeof options, 64 << 20, 5000, UINT32_MAX};
    hayate_entry_t entry;
    int second = hayate_connect_with(cluster, &options);
    CHECK(second >= 0 && second != fs);
    int file = hayate_open(second, "/d/left open", O_WRONLY | O_CREAT, 0600);
    int list = hayate_opendir(second, "/d", 0);
    GIVES(9, hayate_pwrite(file, "published", 9, 0));
    GIVES(0, hayate_disconnect(second));
    FAILS(EBADF, hayate_pwrite(file, "x", 1, 0));
    FAILS(EBADF, hayate_readdir(list, &entry));
    FAILS(EBADF, hayate_mkdir(second, "/d/no", 0700));
    FAILS(EBADF, hayate_disconnect(second));
    CHECK(look("/d/left open").size == 9);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    CHECK(strlen(hayate_version()) >= 5);
    fs = hayate_connect(argv[1]);
    CHECK(fs >= 0);
    GIVES(0, hayate_mkdir(fs, "/d", 0755));
    files();
    layouts();
    much();
    whole();
    attributes();
    names();
    listings();
    extended();
    space();
    ending(argv[1]);
    GIVES(0, hayate_disconnect(fs));
    return 0;
}
