/* MPI-IO whose correctness rests on locks between clients. Each rank opens the file through a mount of its own.
 * Usage: mpi_locks NAME MOUNT...  (rank r uses mount r modulo their number)
 *
 * 1. atomic mode: all ranks write the same blocks, overlapping; each block is then of one rank.
 * 2. data sieving: each rank writes every N-th piece of a strided view, with read-modify-write of what lies between.
 * 3. shared file pointer: each rank writes records; all are there, each whole, each once.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 60000, BLOCKS = 6, PIECE = 37, PIECES = 300, RECORD = 501, RECORDS = 40 };

static int rank, ranks, failures;

static void must(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING];
    int length;
    if (code == MPI_SUCCESS) return;
    MPI_Error_string(code, text, &length);
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, text);
    MPI_Abort(MPI_COMM_WORLD, 2);
}

static void expect(int held, const char *what, long where) {
    if (held || failures++ > 5) return;
    printf("FAIL %s at %ld (rank %d)\n", what, where, rank);
}

static MPI_File open_file(const char *mount, const char *name, const char *suffix) {
    char path[4096];
    MPI_File file;
    MPI_Info info;
    snprintf(path, sizeof path, "%s/%s.%s", mount, name, suffix);
    must(MPI_Info_create(&info), "info");
    must(MPI_Info_set(info, "romio_ds_write", "enable"), "hint");
    must(MPI_Info_set(info, "romio_ds_read", "enable"), "hint");
    must(MPI_Info_set(info, "romio_cb_write", "disable"), "hint");
    must(MPI_File_open(MPI_COMM_WORLD, path, MPI_MODE_RDWR | MPI_MODE_CREATE, info, &file), path);
    MPI_Info_free(&info);
    return file;
}

static void overlapping(const char *mount, const char *name) {
    MPI_File file = open_file(mount, name, "atomic");
    char *block = malloc(BLOCK);
    must(MPI_File_set_atomicity(file, 1), "atomic mode");
    memset(block, 'a' + rank, BLOCK);
    for (int round = 0; round < 3; round++)
        for (int number = 0; number < BLOCKS; number++)
            must(MPI_File_write_at(file, (MPI_Offset)number * BLOCK, block, BLOCK, MPI_BYTE, MPI_STATUS_IGNORE), "write");
    MPI_Barrier(MPI_COMM_WORLD);
    for (int number = 0; number < BLOCKS; number++) {
        must(MPI_File_read_at(file, (MPI_Offset)number * BLOCK, block, BLOCK, MPI_BYTE, MPI_STATUS_IGNORE), "read");
        for (int at = 1; at < BLOCK; at++) expect(block[at] == block[0], "atomic: a block is of two ranks", at);
        expect(block[0] >= 'a' && block[0] < 'a' + ranks, "atomic: a block is of nobody", number);
    }
    MPI_File_close(&file);
    free(block);
}

static void strided(const char *mount, const char *name) {
    MPI_File file = open_file(mount, name, "sieved");
    MPI_Datatype view;
    char *pieces = malloc(PIECE * PIECES), *all = malloc((size_t)PIECE * PIECES * ranks);
    memset(pieces, 'a' + rank, PIECE * PIECES);
    must(MPI_Type_vector(PIECES, PIECE, PIECE * ranks, MPI_BYTE, &view), "type");
    must(MPI_Type_commit(&view), "type");
    must(MPI_File_set_view(file, (MPI_Offset)rank * PIECE, MPI_BYTE, view, "native", MPI_INFO_NULL), "view");
    must(MPI_File_write(file, pieces, PIECE * PIECES, MPI_BYTE, MPI_STATUS_IGNORE), "strided write");
    must(MPI_File_sync(file), "sync");
    MPI_Barrier(MPI_COMM_WORLD);
    must(MPI_File_sync(file), "sync");
    must(MPI_File_set_view(file, 0, MPI_BYTE, MPI_BYTE, "native", MPI_INFO_NULL), "view");
    must(MPI_File_read_at(file, 0, all, PIECE * PIECES * ranks, MPI_BYTE, MPI_STATUS_IGNORE), "read");
    for (long at = 0; at < (long)PIECE * PIECES * ranks; at++)
        expect(all[at] == 'a' + (at / PIECE) % ranks, "data sieving: a byte is another rank's", at);
    MPI_Type_free(&view);
    MPI_File_close(&file);
    free(pieces);
    free(all);
}

static void shared_pointer(const char *mount, const char *name) {
    MPI_File file = open_file(mount, name, "shared");
    char *record = malloc(RECORD), *all = malloc((size_t)RECORD * RECORDS * ranks);
    int *seen = calloc(ranks, sizeof *seen);
    memset(record, 'a' + rank, RECORD);
    for (int number = 0; number < RECORDS; number++)
        must(MPI_File_write_shared(file, record, RECORD, MPI_BYTE, MPI_STATUS_IGNORE), "shared write");
    must(MPI_File_sync(file), "sync");
    MPI_Barrier(MPI_COMM_WORLD);
    must(MPI_File_sync(file), "sync");
    must(MPI_File_read_at(file, 0, all, RECORD * RECORDS * ranks, MPI_BYTE, MPI_STATUS_IGNORE), "read");
    for (long number = 0; number < (long)RECORDS * ranks; number++) {
        char *at = all + number * RECORD;
        for (int byte = 1; byte < RECORD; byte++) expect(at[byte] == at[0], "shared pointer: a record is torn", number);
        if (at[0] >= 'a' && at[0] < 'a' + ranks) seen[at[0] - 'a']++;
    }
    for (int other = 0; other < ranks; other++) expect(seen[other] == RECORDS, "shared pointer: records of a rank", seen[other]);
    MPI_File_close(&file);
    free(record);
    free(all);
    free(seen);
}

int main(int argc, char **argv) {
    int all = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const char *name = argv[1], *mount = argv[2 + rank % (argc - 2)];
    overlapping(mount, name);
    strided(mount, name);
    shared_pointer(mount, name);
    MPI_Reduce(&failures, &all, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0) printf(all ? "FAIL %d findings\n" : "ok   atomic mode, data sieving, shared pointers\n", all);
    MPI_Finalize();
    return all != 0 && rank == 0;
}
