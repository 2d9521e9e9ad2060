/* Goal: what IOR does with its CHFS backend, and mdtest, works with this library under MPI. Method: its calls, in its order and with its flags, with data that is checked: one file that all
 * ranks write in segments, and a file for each; read back by other ranks than those that wrote; then directories and small files. Ranks write one after the other, as IOR's may: the last
 * creates the shared file when the first has closed it. Any number of ranks; no arguments. */
#include <mpi.h>

#include "check.h"

/* IOR's flags, which go to chfs_create and chfs_open as they are. */
enum { READ = 1, WRITE = 2, CREATE = 16, CUT = 32 };
enum { TRANSFER = 40000, TRANSFERS = 4, SEGMENTS = 3, BLOCK = TRANSFER * TRANSFERS, FILES = 20 };

static int rank, ranks;

static void everybody(void) { CHECK(MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS); }

/* Waits for the rank before, or lets the next one go. */
static void turn(int begins) {
    int token = 0;
    if (begins && rank > 0) MPI_Recv(&token, 1, MPI_INT, rank - 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    if (!begins && rank + 1 < ranks) MPI_Send(&token, 1, MPI_INT, rank + 1, 0, MPI_COMM_WORLD);
}

static void fill(char *data, int writer, int segment, int transfer, int seed) {
    for (int at = 0; at < TRANSFER; at++) data[at] = (char)(at * 13 + writer * 31 + segment * 7 + transfer * 3 + seed);
}

/* Where a rank's transfer lies. */
static off_t place(int shared, int writer, int segment, int transfer) {
    off_t block = shared ? (off_t)segment * ranks + writer : segment;
    return block * BLOCK + (off_t)transfer * TRANSFER;
}

static const char *name(int shared, int writer) {
    static char path[64];
    if (shared)
        snprintf(path, sizeof path, "/ior/shared");
    else
        snprintf(path, sizeof path, "/ior/own.%08d", writer);
    return path;
}

/* Removes a file as IOR does: looks whether it is there. */
static void clear(int shared) {
    struct stat st;
    if ((!shared || rank == 0) && chfs_stat(name(shared, rank), &st) == 0) CHECK(chfs_unlink(name(shared, rank)) == 0);
    everybody();
}

static void writes(int shared, int seed) {
    static char data[TRANSFER];
    turn(1);
    int fd = chfs_create(name(shared, rank), WRITE | CREATE | CUT, 0664);
    CHECK(fd >= 0);
    for (int segment = 0; segment < SEGMENTS; segment++)
        for (int transfer = 0; transfer < TRANSFERS; transfer++) {
            fill(data, rank, segment, transfer, seed);
            CHECK(chfs_pwrite(fd, data, TRANSFER, place(shared, rank, segment, transfer)) == TRANSFER);
        }
    CHECK(chfs_fsync(fd) == 0 && chfs_close(fd) == 0);
    turn(0);
    everybody();
    struct stat st;
    CHECK(chfs_stat(name(shared, rank), &st) == 0);
    CHECK(st.st_size == (off_t)SEGMENTS * BLOCK * (shared ? ranks : 1));
}

/* What the rank `shift` further wrote. */
static void reads(int shared, int seed, int shift) {
    static char data[TRANSFER], expected[TRANSFER];
    int writer = (rank + shift) % ranks;
    int fd = chfs_open(name(shared, writer), READ);
    CHECK(fd >= 0);
    for (int segment = 0; segment < SEGMENTS; segment++)
        for (int transfer = 0; transfer < TRANSFERS; transfer++) {
            fill(expected, writer, segment, transfer, seed);
            CHECK(chfs_pread(fd, data, TRANSFER, place(shared, writer, segment, transfer)) == TRANSFER);
            if (memcmp(data, expected, TRANSFER) != 0) {
                fprintf(stderr, "rank %d of %d: %s: other bytes at segment %d, transfer %d in round %d\n", rank, ranks,
                        name(shared, writer), segment, transfer, seed);
                exit(1);
            }
        }
    CHECK(chfs_close(fd) == 0);
    everybody();
}

/* As mdtest: a directory for each rank; another one looks at its files. */
static void small_files(void) {
    char path[64];
    struct stat st;
    int other = (rank + 1) % ranks;
    snprintf(path, sizeof path, "/ior/dir.%d", rank);
    CHECK(chfs_mkdir(path, 0775) == 0);
    for (int file = 0; file < FILES; file++) {
        snprintf(path, sizeof path, "/ior/dir.%d/file.%d", rank, file);
        int fd = chfs_create(path, WRITE | CREATE, 0664);
        CHECK(fd >= 0 && chfs_pwrite(fd, path, sizeof path, 0) == sizeof path && chfs_close(fd) == 0);
    }
    everybody();
    for (int file = 0; file < FILES; file++) {
        char found[64];
        memset(path, 0, sizeof path);
        snprintf(path, sizeof path, "/ior/dir.%d/file.%d", other, file);
        CHECK(chfs_stat(path, &st) == 0 && st.st_size == sizeof path);
        int fd = chfs_open(path, READ);
        CHECK(fd >= 0 && chfs_pread(fd, found, sizeof found, 0) == sizeof found && strcmp(found, path) == 0);
        CHECK(chfs_close(fd) == 0);
    }
    everybody();
    for (int file = 0; file < FILES; file++) {
        snprintf(path, sizeof path, "/ior/dir.%d/file.%d", rank, file);
        CHECK(chfs_unlink(path) == 0);
    }
    snprintf(path, sizeof path, "/ior/dir.%d", rank);
    CHECK(chfs_rmdir(path) == 0);
    FAILS(ENOENT, chfs_stat(path, &st));
    everybody();
}

int main(int argc, char **argv) {
    CHECK(MPI_Init(&argc, &argv) == MPI_SUCCESS);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    CHECK(chfs_init(NULL) == 0);
    if (rank == 0) CHECK(chfs_mkdir("/ior", 0775) == 0);
    everybody();
    for (int shared = 0; shared <= 1; shared++) {
        for (int repetition = 0; repetition < 2; repetition++) {
            clear(shared);
            writes(shared, repetition);
            reads(shared, repetition, 2);
            reads(shared, repetition, 1);
        }
        /* With what is there. */
        writes(shared, 5);
        reads(shared, 5, 1);
        clear(shared);
    }
    small_files();
    if (rank == 0) {
        CHECK(chfs_rmdir("/ior") == 0);
        printf("%d ranks\n", ranks);
    }
    CHECK(chfs_term() == 0);
    MPI_Finalize();
    return 0;
}
