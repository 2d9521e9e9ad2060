/* Goal: IOR's flag for reading, which is O_WRONLY to open(2), opens what of reading and writing is permitted, and permits no more. Method: the superuser makes files, an ordinary
 * user opens them. Arguments: the cluster file, and a copy of that user's. */
#include <grp.h>

#include "check.h"

enum { NOBODY = 65534, IOR_RDONLY = 1 };

static void make(const char *path, mode_t mode) {
    int fd = chfs_create(path, O_CREAT | O_EXCL | O_RDWR, mode);
    CHECK(fd >= 0 && chfs_pwrite(fd, "data", 4, 0) == 4 && chfs_close(fd) == 0);
}

int main(int argc, char **argv) {
    char room[8];
    CHECK(argc == 3 && geteuid() == 0);
    umask(0);
    CHECK(chfs_init(argv[1]) == 0);
    make("/readable", 0444);
    make("/writable", 0222);
    make("/neither", 0600);
    CHECK(chfs_term() == 0);
    CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    CHECK(chfs_init(argv[2]) == 0);

    int fd = chfs_open("/readable", IOR_RDONLY);
    CHECK(fd >= 0);
    CHECK(chfs_pread(fd, room, 8, 0) == 4 && memcmp(room, "data", 4) == 0);
    FAILS(EBADF, chfs_pwrite(fd, "x", 1, 0));
    CHECK(chfs_close(fd) == 0);
    fd = chfs_open("/writable", IOR_RDONLY);
    CHECK(fd >= 0);
    CHECK(chfs_pwrite(fd, "D", 1, 0) == 1 && chfs_close(fd) == 0);

    /* Who says that he writes, in either language, is refused. */
    FAILS(EACCES, chfs_open("/readable", O_RDWR));
    FAILS(EACCES, chfs_open("/readable", O_WRONLY | O_TRUNC));
    FAILS(EACCES, chfs_open("/readable", O_WRONLY | O_APPEND));
    FAILS(EACCES, chfs_open("/readable", 4));
    FAILS(EACCES, chfs_open("/writable", O_RDONLY));
    FAILS(EACCES, chfs_open("/neither", IOR_RDONLY));
    CHECK(chfs_term() == 0);
    return 0;
}
