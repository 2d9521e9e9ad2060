/* What tests do to a version's files behind the library's back. */
#ifndef DAMAGE_H
#define DAMAGE_H

#include "check.h"

/* Changes the first byte of the first region that a rank wrote of a version in /checkpoints. */
static inline void damage(int fs, const char *set, uint64_t version, int rank) {
    hayate_entry_t entry;
    char dir[300], path[700], byte;
    int changed = 0;
    snprintf(dir, sizeof dir, "/checkpoints/%s/data", set);
    int list = hayate_opendir(fs, dir, 0);
    CHECK(list >= 0);
    while (hayate_readdir(list, &entry) == 1) {
        if (strtoull((char *)entry.name, NULL, 10) != version) continue;
        snprintf(path, sizeof path, "%s/%s/r%d/0", dir, (char *)entry.name, rank);
        int file = hayate_open(fs, path, O_RDWR, 0);
        if (file < 0) continue; /* Of an attempt that was given up. */
        GIVES(1, hayate_pread(file, &byte, 1, 0));
        byte ^= 1;
        GIVES(1, hayate_pwrite(file, &byte, 1, 0));
        GIVES(0, hayate_close(file));
        changed++;
    }
    GIVES(0, hayate_closedir(list));
    CHECK(changed == 1);
}

#endif
