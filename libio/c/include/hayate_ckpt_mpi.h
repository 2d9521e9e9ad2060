/*
 * Checkpoints of an MPI program: hayate_ckpt_* with a communicator in place of rank, nranks and group. Header only: libhayate.so does not know MPI.
 *
 * All of these are collective: every rank of the communicator calls them, in the same order, with the same set, version and options. Every rank gets the same answer,
 * unless MPI itself fails. Waiting for another rank is MPI's here, which has no time-out; hayate_ckpt_commit, which needs no MPI, has one.
 *
 * What is not here is as without MPI: hayate_ckpt_write, _write_all, _commit, _seal, _test, _join, _abort, _protect, _prune (by one rank).
 */
#ifndef HAYATE_CKPT_MPI_H
#define HAYATE_CKPT_MPI_H

#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "hayate.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The worst answer of all ranks: the most negative, else the least. */
static inline int hayate_ckpt_mpi_worst(int answer, MPI_Comm comm)
{
    int worst = answer;
    MPI_Allreduce(&answer, &worst, 1, MPI_INT, MPI_MIN, comm);
    return worst;
}

/* As hayate_ckpt_open, with a group that the ranks of this communicator share, and no other run has. Each call makes another group. */
static inline int hayate_ckpt_mpi_open(int fs, const char *root, const char *mount, MPI_Comm comm)
{
    char group[96] = "";
    int rank, ckpt, worst;
    MPI_Comm_rank(comm, &rank);
    if (rank == 0) {
        struct timespec now;
        char host[40] = "";
        clock_gettime(CLOCK_REALTIME, &now);
        gethostname(host, sizeof host - 1);
        snprintf(group, sizeof group, "mpi-%s-%ld-%lld.%09ld", host, (long)getpid(), (long long)now.tv_sec, now.tv_nsec);
    }
    MPI_Bcast(group, (int)sizeof group, MPI_CHAR, 0, comm);
    ckpt = hayate_ckpt_open(fs, root, group, mount);
    worst = hayate_ckpt_mpi_worst(ckpt < 0 ? ckpt : 0, comm);
    if (worst < 0 && ckpt >= 0)
        hayate_ckpt_close(ckpt);
    return worst < 0 ? worst : ckpt;
}

/* As hayate_ckpt_begin, on all ranks or on none: where one of them fails, the others give the version up and hear of it here. */
static inline int hayate_ckpt_mpi_begin(int ckpt, const char *set, uint64_t version, const hayate_ckpt_options_t *options,
                                        MPI_Comm comm)
{
    int rank, ranks, writer, worst;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &ranks);
    writer = hayate_ckpt_begin(ckpt, set, version, (uint32_t)rank, (uint32_t)ranks, options);
    worst = hayate_ckpt_mpi_worst(writer < 0 ? writer : 0, comm);
    if (worst < 0 && writer >= 0)
        hayate_ckpt_abort(writer);
    return worst < 0 ? worst : writer;
}

/* As hayate_ckpt_latest: rank 0 asks, and all hear its answer. Two that ask while a server comes or goes could hear different ones. */
static inline int hayate_ckpt_mpi_latest(int ckpt, const char *set, uint64_t below, uint64_t *version, MPI_Comm comm)
{
    long long told[2] = {0, 0};
    int rank;
    MPI_Comm_rank(comm, &rank);
    if (rank == 0) {
        uint64_t found = 0;
        told[0] = hayate_ckpt_latest(ckpt, set, below, &found);
        told[1] = (long long)found;
    }
    MPI_Bcast(told, 2, MPI_LONG_LONG, 0, comm);
    if (told[0] == 1)
        *version = (uint64_t)told[1];
    return (int)told[0];
}

/* As hayate_ckpt_read_all, on all ranks: 0 if every rank could read what it has registered. If one could not, the version is remembered as one that no restart
 * succeeds from, so that hayate_ckpt_mpi_latest offers an older one, and all get that rank's error. Should that mark fail as well, ask for a version below this one. */
static inline int hayate_ckpt_mpi_read_all(int ckpt, const char *set, uint64_t version, MPI_Comm comm)
{
    int64_t read = hayate_ckpt_read_all(ckpt, set, version);
    int rank, worst = hayate_ckpt_mpi_worst(read < 0 ? (int)read : 0, comm);
    MPI_Comm_rank(comm, &rank);
    if (worst < 0 && rank == 0)
        hayate_ckpt_finish(ckpt, set, version, 0);
    return worst;
}

/* Waits until a version has reached a level, as hayate_ckpt_wait: rank 0 waits, and all hear how it ended. */
static inline int hayate_ckpt_mpi_wait(int ckpt, const char *set, uint64_t version, int level, uint32_t timeout_ms, MPI_Comm comm)
{
    int rank, answer = 0;
    MPI_Comm_rank(comm, &rank);
    if (rank == 0)
        answer = hayate_ckpt_wait(ckpt, set, version, level, timeout_ms);
    MPI_Bcast(&answer, 1, MPI_INT, 0, comm);
    return answer;
}

#ifdef __cplusplus
}
#endif

#endif
