/*
 * What a checkpoint costs the heat equation, told within one run: of windows of equally many steps every second one begins with a checkpoint, and the
 * times of all are printed. Runs of their own differ from each other by more than a checkpoint costs.
 *
 *   cc -O2 -ffp-contract=off -o heat_windows heat_windows.c -I ../libio/c/include -lhayate && ./heat_windows CLUSTER_FILE WINDOWS SECONDS SIDE
 */
#define main heat_main
#include "../libio/examples/heat.c"
#undef main

static void steps(double *plate, double *next, uint64_t count)
{
    for (uint64_t each = 0; each < count; each++) {
        step(plate, next);
        memcpy(plate, next, side * side * sizeof *plate);
    }
}

int main(int argc, char **argv)
{
    uint64_t windows = number(argc, argv, 2, 10);
    double seconds = (double)number(argc, argv, 3, 10);
    if (argc < 2) {
        fprintf(stderr, "usage: heat_windows CLUSTER_FILE [WINDOWS [SECONDS [SIDE]]]\n");
        return 2;
    }
    side = end = (size_t)number(argc, argv, 4, 512);
    double *plate = calloc(side * side, sizeof *plate), *next = calloc(side * side, sizeof *next);
    if (plate == NULL || next == NULL)
        fail("memory for the plate");
    int fs = (int)checked("connect", hayate_connect(argv[1]));
    int ckpt = (int)checked("open", hayate_ckpt_open(fs, "/checkpoints", NULL, NULL));
    checked("protect", hayate_ckpt_protect(ckpt, "plate", plate, side * side * sizeof *plate, 0));

    /* Memory is warm, and so is what a first checkpoint needs, before anything is measured. */
    save(ckpt, 1);
    uint64_t count = 10;
    steps(plate, next, count);
    double began = now();
    steps(plate, next, count);
    count = (uint64_t)(seconds / ((now() - began) / (double)count)) + 1;
    for (uint64_t window = 0; window < windows; window++) {
        /* A plate that does not change is no checkpoint worth the name. */
        plate[window % side] = 100 + (double)window;
        double opened = now(), blocked = 0;
        if (window % 2 == 1) {
            save(ckpt, window + 1);
            blocked = now() - opened;
        }
        steps(plate, next, count);
        printf("window %s %.6f s, blocked %.6f s\n", window % 2 == 1 ? "with" : "without", now() - opened, blocked);
        fflush(stdout);
    }
    checked("close", hayate_ckpt_close(ckpt));
    checked("disconnect", hayate_disconnect(fs));
    free(plate);
    free(next);
    return 0;
}
