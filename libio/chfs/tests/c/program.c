/* Goal: a program written for CHFS's functions runs, and gets what POSIX promises. Method: it calls all of them. Arguments: the cluster file, a directory to
 * stage in from (with `in/file` of "staged in", mode 0640, and the link `in/link`), and the tier's directory. */
#include <sys/wait.h>

#include "check.h"

static struct stat look(const char *path) {
    struct stat st;
    CHECK(chfs_stat(path, &st) == 0);
    return st;
}

static void before(void) {
    struct stat st;
    CHECK(chfs_initialized() == 0);
    FAILS(ENOTCONN, chfs_stat("/", &st));
    FAILS(EBADF, chfs_close(0));
    chfs_set_rpc_timeout_msec(20000);
    chfs_set_buf_size(0);
    chfs_set_async_access(0);
    chfs_set_rdma_thresh(32768);
    chfs_set_node_list_cache_timeout(10);
    chfs_set_stagein_buf_size(7);
}

static void files(void) {
    char room[32];
    struct stat st;
    umask(022);
    int fd = chfs_create("/f", O_CREAT | O_EXCL | O_WRONLY, 0666);
    CHECK(fd >= 0);
    FAILS(EEXIST, chfs_create("/f", O_CREAT | O_EXCL | O_WRONLY, 0666));
    CHECK(chfs_write(fd, "hello ", 6) == 6 && chfs_write(fd, "world", 5) == 5);
    CHECK(chfs_pwrite(fd, "W", 1, 6) == 1);
    CHECK(chfs_seek(fd, -5, SEEK_CUR) == 6 && chfs_read(fd, room, sizeof room) == 5);
    CHECK(memcmp(room, "World", 5) == 0);
    CHECK(chfs_read(fd, room, sizeof room) == 0);
    CHECK(chfs_seek(fd, 1, SEEK_END) == 12 && chfs_seek(fd, 3, SEEK_SET) == 3);
    FAILS(EINVAL, chfs_seek(fd, -1, SEEK_SET));
    FAILS(EINVAL, chfs_seek(fd, 0, 77));
    CHECK(chfs_fsync(fd) == 0 && chfs_fstat(fd, &st) == 0 && st.st_size == 11);
    CHECK(chfs_ftruncate(fd, 20) == 0);
    /* A second creation of a shared file leaves what is there. */
    int again = chfs_create("/f", O_CREAT | O_RDWR, 0600);
    CHECK(chfs_pread(again, room, sizeof room, 0) == 20 && memcmp(room, "hello World\0\0\0\0\0\0\0\0\0", 20) == 0);
    CHECK(chfs_close(again) == 0 && chfs_close(fd) == 0);
    FAILS(EBADF, chfs_close(fd));
    CHECK(S_ISREG(look("/f").st_mode) && (look("/f").st_mode & 07777) == 0644);
    CHECK(chfs_truncate("/f", 5) == 0 && look("/f").st_size == 5);

    fd = chfs_open("/f", O_RDONLY);
    FAILS(EBADF, chfs_pwrite(fd, "x", 1, 0));
    FAILS(EINVAL, chfs_ftruncate(fd, 0));
    FAILS(EFAULT, chfs_pread(fd, NULL, 1, 0));
    CHECK(chfs_close(fd) == 0);
    fd = chfs_open("/f", O_WRONLY | O_APPEND);
    CHECK(chfs_write(fd, "+", 1) == 1 && chfs_close(fd) == 0 && look("/f").st_size == 6);
    fd = chfs_open("/f", O_WRONLY | O_TRUNC);
    CHECK(chfs_close(fd) == 0 && look("/f").st_size == 0);
    FAILS(ENOENT, chfs_open("/none", O_RDWR));
    FAILS(EFAULT, chfs_open(NULL, O_RDWR));
}

/* Chunks: reading holes, far writes, several chunks. */
static void chunks(void) {
    enum { SIZE = 300000 };
    static char data[SIZE], back[SIZE];
    for (int i = 0; i < SIZE; i++) data[i] = (char)(i * 7 >> 2);
    chfs_set_chunk_size(65536);
    int fd = chfs_create("/chunks", O_RDWR, 0600);
    CHECK(chfs_pwrite(fd, data, SIZE, 1000000) == SIZE);
    CHECK(chfs_pread(fd, back, SIZE, 1000000) == SIZE && memcmp(data, back, SIZE) == 0);
    CHECK(chfs_pread(fd, back, 1000, 500000) == 1000 && back[0] == 0 && back[999] == 0);
    CHECK(chfs_close(fd) == 0);
    CHECK(look("/chunks").st_blksize == 65536 && look("/chunks").st_size == 1000000 + SIZE);
    chfs_set_chunk_size(0);
    fd = chfs_create_chunk_size("/larger", O_RDWR, 0600, 3 << 20);
    CHECK(chfs_pwrite(fd, data, SIZE, 0) == SIZE && chfs_close(fd) == 0);
    CHECK(look("/larger").st_blksize == 4 << 20);
}

/* What IOR passes as flags: 1 reads, 2 writes, 4 both, 16 creates. */
static void iors_flags(void) {
    char room[4];
    int fd = chfs_create("/ior", 4 | 16, 0664);
    CHECK(chfs_pwrite(fd, "data", 4, 0) == 4 && chfs_close(fd) == 0);
    fd = chfs_open("/ior", 1);
    CHECK(chfs_pread(fd, room, 4, 0) == 4 && memcmp(room, "data", 4) == 0 && chfs_close(fd) == 0);
    fd = chfs_open("/ior", 4);
    CHECK(chfs_pwrite(fd, "D", 1, 0) == 1 && chfs_close(fd) == 0);
    fd = chfs_create("/ior", 4 | 16 | 128, 0664);
    CHECK(chfs_pread(fd, room, 4, 0) == 4 && memcmp(room, "Data", 4) == 0 && chfs_close(fd) == 0);
    /* Every rank that writes a shared file says 32, whenever it comes. */
    fd = chfs_create("/ior", 2 | 16 | 32, 0664);
    CHECK(chfs_pread(fd, room, 4, 0) == 4 && memcmp(room, "Data", 4) == 0 && chfs_close(fd) == 0);
}

static void names(void) {
    char room[16];
    CHECK(chfs_mkdir("/d", 0777) == 0 && (look("/d").st_mode & 07777) == 0755 && S_ISDIR(look("/d").st_mode));
    FAILS(EEXIST, chfs_mkdir("/d", 0777));
    CHECK(chfs_symlink("../f", "/d/l") == 0 && S_ISLNK(look("/d/l").st_mode));
    CHECK(chfs_readlink("/d/l", room, sizeof room) == 4 && memcmp(room, "../f", 4) == 0);
    FAILS(ENOTEMPTY, chfs_rmdir("/d"));
    CHECK(chfs_access("/d/l", F_OK) == 0 && chfs_access("/d", R_OK | W_OK | X_OK) == 0);
    FAILS(EACCES, chfs_access("/f", X_OK));
    FAILS(ENOENT, chfs_access("/none", F_OK));
    /* Relative paths, and those that begin at an open directory. */
    CHECK(chfs_chdir("d") == 0 && S_ISLNK(look("l").st_mode));
    int dir = chfs_open("/d", O_RDONLY);
    CHECK(dir >= 0);
    FAILS(EISDIR, chfs_pread(dir, room, 1, 0));
    struct stat st;
    CHECK(chfs_fstat(dir, &st) == 0 && S_ISDIR(st.st_mode) && chfs_fsync(dir) == 0);
    char *path = chfs_path_at(dir, "l");
    CHECK(path != NULL && strcmp(path, "/d/l") == 0);
    free(path);
    CHECK(chfs_path_at(-1, "l") == NULL);
    CHECK(chfs_chdir("/") == 0 && chfs_fchdir(dir) == 0 && chfs_unlink("l") == 0 && chfs_chdir("/") == 0);
    CHECK(chfs_close(dir) == 0);
    FAILS(ENOTDIR, chfs_chdir("/f"));
    FAILS(EISDIR, chfs_unlink("/d"));
    CHECK(chfs_rmdir("/d") == 0);
}

struct seen {
    int count[100], files, stop_after;
};

static int note(void *argument, const char *name, const struct stat *st, off_t offset) {
    struct seen *seen = argument;
    CHECK(offset == 0 && S_ISREG(st->st_mode) && st->st_size == 3);
    seen->count[atoi(name)]++;
    return ++seen->files == seen->stop_after;
}

static void listings(void) {
    struct seen all = {0}, parts = {0}, some = {0};
    char path[32];
    CHECK(chfs_mkdir("/list", 0755) == 0);
    for (int i = 0; i < 100; i++) {
        snprintf(path, sizeof path, "/list/%d", i);
        int fd = chfs_create(path, O_RDWR, 0600);
        CHECK(chfs_write(fd, "abc", 3) == 3 && chfs_close(fd) == 0);
    }
    CHECK(chfs_readdir("/list", &all, note) == 0);
    CHECK(chfs_size() == 3);
    for (int index = 0; index < chfs_size(); index++) {
        int before = parts.files;
        CHECK(chfs_readdir_index("/list", index, &parts, note) == 0);
        CHECK(parts.files - before > 10); /* None has nothing to do. */
    }
    for (int i = 0; i < 100; i++) CHECK(all.count[i] == 1 && parts.count[i] == 1);
    some.stop_after = 7;
    CHECK(chfs_readdir("/list", &some, note) == 0 && some.files == 7);
    FAILS(ENOENT, chfs_readdir("/none", &all, note));
}

static void staging(const char *backend, const char *tier) {
    char room[32], path[4096];
    FAILS(ENOENT, chfs_stagein("in/file"));
    setenv("CHFS_BACKEND_PATH", backend, 1);
    CHECK(chfs_stagein("/in") == 0 && chfs_stagein("in/file") == 0 && chfs_stagein("/in/link") == 0);
    FAILS(ENOENT, chfs_stagein("in/none"));
    int fd = chfs_open("/in/file", O_RDONLY);
    CHECK(chfs_read(fd, room, sizeof room) == 9 && memcmp(room, "staged in", 9) == 0 && chfs_close(fd) == 0);
    CHECK((look("/in/file").st_mode & 07777) == 0640 && look("/in/file").st_mtime == 1234567890);
    CHECK(chfs_readlink("/in/link", room, sizeof room) == 4);
    chfs_sync();
    snprintf(path, sizeof path, "%s/chunks", tier);
    struct stat st;
    CHECK(stat(path, &st) == 0 && st.st_size == 1300000);
}

static void in_child(const char *cluster) {
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct stat st;
        CHECK(chfs_initialized() == 0);
        FAILS(ENOTCONN, chfs_stat("/f", &st));
        CHECK(chfs_init(cluster) == 0 && S_ISREG(look("/f").st_mode) && chfs_term() == 0);
        exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    before();
    FAILS(EINVAL, chfs_init(NULL)); /* There is none at the usual place. */
    CHECK(chfs_init(argv[1]) == 0 && chfs_initialized() == 1);
    CHECK(strncmp(chfs_version(), "hayate ", 7) == 0);
    files();
    chunks();
    iors_flags();
    names();
    listings();
    staging(argv[2], argv[3]);
    in_child(argv[1]);
    int fd = chfs_create("/left open", O_RDWR, 0600);
    CHECK(chfs_write(fd, "published", 9) == 9);
    CHECK(chfs_term() == 0 && chfs_initialized() == 0);
    FAILS(EBADF, chfs_write(fd, "x", 1));
    setenv("CHFS_SERVER", argv[1], 1);
    setenv("CHFS_CHUNK_SIZE", "131072", 1);
    CHECK(chfs_init(NULL) == 0 && look("/left open").st_size == 9);
    fd = chfs_create("/by environment", O_RDWR, 0600);
    CHECK(chfs_pwrite(fd, "x", 1, 200000) == 1 && chfs_close(fd) == 0 && look("/by environment").st_blksize == 131072);
    CHECK(chfs_term_without_sync() == 0);
    return 0;
}
