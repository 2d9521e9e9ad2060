/*
 * A two-dimensional heat equation that checkpoints and restarts: kill it whenever you like, start it again, and it goes on from the newest version, to the same
 * result. heat.rs and heat.py are the same in Rust and Python, to the last bit: each goes on from what another wrote.
 *
 *   cc -O2 -ffp-contract=off -o heat heat.c -I ../c/include -lhayate && ./heat CLUSTER_FILE [STEPS [EVERY [SIDE]]]
 *
 * With -DHAYATE_WITH_MPI and mpicc each rank has a band of rows; the number of ranks may be another one after a restart.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef HAYATE_WITH_MPI
#include "hayate_ckpt_mpi.h"
#else
#include "hayate.h"
#endif

#define SET "heat"

static int rank, ranks = 1;

/* What this rank has: rows from first to end, and one more on either side where there is one. */
static size_t side, first, end, above;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, hayate_last_error());
#ifdef HAYATE_WITH_MPI
    MPI_Abort(MPI_COMM_WORLD, 1);
#endif
    exit(1);
}

static long long checked(const char *what, long long answer)
{
    if (answer < 0)
        fail(what);
    return answer;
}

/* The newest version that all ranks could read into the protected rows; 0 if there is none. One that cannot be read is not offered again. */
static uint64_t restart(int ckpt)
{
    uint64_t version = 0, below = 0;
#ifdef HAYATE_WITH_MPI
    while (checked("latest", hayate_ckpt_mpi_latest(ckpt, SET, below, &version, MPI_COMM_WORLD)) == 1) {
        if (hayate_ckpt_mpi_read_all(ckpt, SET, version, MPI_COMM_WORLD) >= 0)
            return version;
        below = version;
    }
#else
    while (checked("latest", hayate_ckpt_latest(ckpt, SET, below, &version)) == 1) {
        if (hayate_ckpt_read_all(ckpt, SET, version) >= 0)
            return version;
        fprintf(stderr, "version %" PRIu64 ": %s\n", version, hayate_last_error());
        checked("finish", hayate_ckpt_finish(ckpt, SET, version, 0));
        below = version;
    }
#endif
    return 0;
}

/* Writes all that is protected, on all ranks. */
static void save(int ckpt, uint64_t version)
{
#ifdef HAYATE_WITH_MPI
    int writer = hayate_ckpt_mpi_begin(ckpt, SET, version, NULL, MPI_COMM_WORLD);
#else
    int writer = hayate_ckpt_begin(ckpt, SET, version, 0, 1, NULL);
#endif
    /* Of a run before, and not offered: damaged, or a restart from it failed. The next one will do. */
    if (writer == -EEXIST)
        return;
    checked("begin", writer);
    int ok = hayate_ckpt_write_all(writer) >= 0;
    checked("commit", hayate_ckpt_commit(writer, ok));
    if (rank == 0) {
        /* A server that is silent holds up pruning, and not the run. */
        if (hayate_ckpt_prune(ckpt, SET, 2) < 0)
            fprintf(stderr, "older versions stay for now: %s\n", hayate_last_error());
        printf("saved %" PRIu64 "\n", version);
        fflush(stdout);
    }
}

/* Rows at the borders of bands, from the neighbours. */
static void exchange(double *plate)
{
#ifdef HAYATE_WITH_MPI
    double *own = plate + above * side, *last = own + (end - first - 1) * side;
    int upper = rank > 0 ? rank - 1 : MPI_PROC_NULL, lower = rank < ranks - 1 ? rank + 1 : MPI_PROC_NULL, row = (int)side;
    MPI_Sendrecv(own, row, MPI_DOUBLE, upper, 0, last + side, row, MPI_DOUBLE, lower, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Sendrecv(last, row, MPI_DOUBLE, lower, 1, plate, row, MPI_DOUBLE, upper, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
#else
    (void)plate;
#endif
}

/* The plate's border keeps its temperature. */
static void step(const double *old, double *new)
{
    for (size_t row = first; row < end; row++) {
        if (row == 0 || row == side - 1)
            continue;
        size_t from = (row - first + above) * side;
        for (size_t at = from + 1; at < from + side - 1; at++) {
            double around = old[at - side] + old[at + side] + old[at - 1] + old[at + 1];
            new[at] = old[at] + 0.2 * (around - 4.0 * old[at]);
        }
    }
}

/* All bits of all cells (FNV-1a over 64-bit words), rank after rank, and the mean. */
static void result(const double *own, uint64_t done)
{
    uint64_t hash = 0xcbf29ce484222325, bits;
    double sum = 0;
#ifdef HAYATE_WITH_MPI
    if (rank > 0) {
        MPI_Recv(&hash, 1, MPI_UINT64_T, rank - 1, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Recv(&sum, 1, MPI_DOUBLE, rank - 1, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
#endif
    for (size_t at = 0; at < (end - first) * side; at++) {
        memcpy(&bits, own + at, sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3;
        sum += own[at];
    }
#ifdef HAYATE_WITH_MPI
    if (rank < ranks - 1) {
        MPI_Send(&hash, 1, MPI_UINT64_T, rank + 1, 2, MPI_COMM_WORLD);
        MPI_Send(&sum, 1, MPI_DOUBLE, rank + 1, 3, MPI_COMM_WORLD);
        return;
    }
#endif
    printf("step %" PRIu64 ": %.12f degrees on average, %016" PRIx64 "\n", done, sum / (double)(side * side), hash);
}

static unsigned long long number(int argc, char **argv, int at, unsigned long long usual)
{
    return argc > at ? strtoull(argv[at], NULL, 10) : usual;
}

int main(int argc, char **argv)
{
#ifdef HAYATE_WITH_MPI
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
#endif
    if (argc < 2) {
        fprintf(stderr, "usage: heat CLUSTER_FILE [STEPS [EVERY [SIDE]]]\n");
        return 2;
    }
    uint64_t steps = number(argc, argv, 2, 1000), every = number(argc, argv, 3, 100), done;
    side = (size_t)number(argc, argv, 4, 512);
    first = side * (size_t)rank / (size_t)ranks;
    end = side * (size_t)(rank + 1) / (size_t)ranks;
    above = first > 0;
    size_t cells = (end - first + above + (end < side)) * side, bytes = (end - first) * side * sizeof(double);
    double *plate = calloc(cells, sizeof *plate), *next = calloc(cells, sizeof *next), *own, blocked = 0;
    if (plate == NULL || next == NULL || end == first)
        fail("memory for the plate");
    own = plate + above * side;

    int fs = (int)checked("connect", hayate_connect(argv[1]));
#ifdef HAYATE_WITH_MPI
    int ckpt = (int)checked("open", hayate_ckpt_mpi_open(fs, "/checkpoints", NULL, MPI_COMM_WORLD));
#else
    int ckpt = (int)checked("open", hayate_ckpt_open(fs, "/checkpoints", NULL, NULL));
#endif
    checked("protect", hayate_ckpt_protect(ckpt, "plate", own, bytes, first * side * sizeof(double)));
    done = restart(ckpt);
    if (done == 0) {
        memset(own, 0, bytes);
        for (size_t at = 0; first == 0 && at < side; at++)
            own[at] = 100;
    }
    if (rank == 0)
        printf("starting at step %" PRIu64 "\n", done);
    exchange(plate);
    memcpy(next, plate, cells * sizeof *plate);
    double began = now();
    while (done < steps) {
        /* What is protected stays where it is, so the plate is copied back. */
        step(plate, next);
        memcpy(own, next + above * side, bytes);
        exchange(plate);
        done++;
        if (every > 0 && done % every == 0) {
            double stopped = now();
            save(ckpt, done);
            blocked += now() - stopped;
        }
    }
    if (rank == 0)
        printf("ran %.3f s, of which checkpoints %.3f s\n", now() - began, blocked);
    result(own, done);
    checked("close", hayate_ckpt_close(ckpt));
    checked("disconnect", hayate_disconnect(fs));
    free(plate);
    free(next);
#ifdef HAYATE_WITH_MPI
    MPI_Finalize();
#endif
    return 0;
}
