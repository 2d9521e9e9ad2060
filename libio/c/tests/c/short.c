/* A process that does one thing: connects, looks at the root, ends. Its caller measures it. Argument: the cluster file. */
#include "check.h"

int main(int argc, char **argv) {
    CHECK(argc == 2);
    hayate_stat_t stat;
    int fs = hayate_connect(argv[1]);
    CHECK(fs >= 0);
    GIVES(0, hayate_stat(fs, "/", &stat));
    CHECK(S_ISDIR(stat.mode));
    return 0;
}
