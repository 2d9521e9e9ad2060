/* Goal: what hayate_ckpt_mpi.h promises: every rank gets the same answer, also where only one rank has a reason for it. Method: three ranks or more, each with a region of its own; one of them
 * cannot begin, and one's bytes are damaged. Argument: the cluster file. */
#include "hayate_ckpt_mpi.h"

#include "damage.h"

enum { BYTES = 100000 };

static int fs, ckpt, rank, ranks;
static char field[BYTES];

static void everybody(void) { CHECK(MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS); }

static void saves(uint64_t version) {
    memset(field, (int)version * 16 + rank, BYTES);
    int writer = hayate_ckpt_mpi_begin(ckpt, "set", version, NULL, MPI_COMM_WORLD);
    CHECK(writer >= 0);
    GIVES(BYTES, hayate_ckpt_write_all(writer));
    GIVES(0, hayate_ckpt_commit(writer, 1));
}

static void newest_is(uint64_t version) {
    uint64_t newest = 0;
    GIVES(version > 0, hayate_ckpt_mpi_latest(ckpt, "set", 0, &newest, MPI_COMM_WORLD));
    GIVES(version, newest);
}

static void restores(uint64_t version) {
    memset(field, 0, BYTES);
    GIVES(0, hayate_ckpt_mpi_read_all(ckpt, "set", version, MPI_COMM_WORLD));
    CHECK(field[0] == (char)(version * 16 + (uint64_t)rank) && field[BYTES - 1] == field[0]);
}

/* A level that is reached, one that is not, one that cannot be. */
static void waits(void) {
    GIVES(0, hayate_ckpt_mpi_wait(ckpt, "set", 1, HAYATE_CKPT_SEALED, 60000, MPI_COMM_WORLD));
    GIVES(0, hayate_ckpt_mpi_wait(ckpt, "set", 1, HAYATE_CKPT_COMMITTED, 60000, MPI_COMM_WORLD));
    GIVES(-ETIMEDOUT, hayate_ckpt_mpi_wait(ckpt, "set", 9, HAYATE_CKPT_COMMITTED, 5, MPI_COMM_WORLD));
    GIVES(-EINVAL, hayate_ckpt_mpi_wait(ckpt, "set", 1, HAYATE_CKPT_DURABLE, 60000, MPI_COMM_WORLD));
}

/* One rank has no options that can be, so no rank writes. */
static void one_cannot_begin(void) {
    hayate_ckpt_options_t options = {.size = sizeof options};
    options.copies = rank == 1 ? 77 : 0;
    GIVES(-EINVAL, hayate_ckpt_mpi_begin(ckpt, "set", 2, &options, MPI_COMM_WORLD));
    newest_is(1);
}

/* One rank's file system is not there, so no rank has checkpoints. */
static void one_cannot_open(void) {
    GIVES(-EBADF, hayate_ckpt_mpi_open(rank == 1 ? -1 : fs, "/checkpoints", NULL, MPI_COMM_WORLD));
}

/* What the last rank wrote is damaged. All others could read theirs. */
static void one_cannot_read(void) {
    saves(3);
    newest_is(3);
    if (rank == 0) damage(fs, "set", 3, ranks - 1);
    everybody();
    if (rank == ranks - 1)
        FAILS(EIO, hayate_ckpt_read_all(ckpt, "set", 3));
    else
        GIVES(BYTES, hayate_ckpt_read_all(ckpt, "set", 3));
    everybody();
    GIVES(-EIO, hayate_ckpt_mpi_read_all(ckpt, "set", 3, MPI_COMM_WORLD));
    newest_is(1);
    restores(1);
}

int main(int argc, char **argv) {
    CHECK(MPI_Init(&argc, &argv) == MPI_SUCCESS && argc == 2);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    fs = hayate_connect(argv[1]);
    CHECK(fs >= 0);
    ckpt = hayate_ckpt_mpi_open(fs, "/checkpoints", NULL, MPI_COMM_WORLD);
    CHECK(ckpt >= 0);
    char name[16];
    snprintf(name, sizeof name, "of-%d", rank);
    GIVES(0, hayate_ckpt_protect(ckpt, name, field, BYTES, 0));
    newest_is(0);
    saves(1);
    newest_is(1);
    restores(1);
    waits();
    one_cannot_begin();
    one_cannot_open();
    one_cannot_read();
    if (rank == 0) printf("%d ranks\n", ranks);
    GIVES(0, hayate_disconnect(fs));
    MPI_Finalize();
    return 0;
}
