/*
 * Hayate's file and checkpoint API for C and C++ (library: libhayate.so, link with -lhayate).
 *
 * Generated from libio/c/src by `HAYATE_WRITE_HEADER=1 cargo test -p hayate-c --test header`; a test fails when it is out of date.
 *
 * Every function that can fail returns a negative errno value (-ENOENT, ...) if it does, and hayate_last_error() then has words for it.
 * Strings are bytes that end in 0; paths are absolute within the file system, and symbolic links in them are followed, the last name's
 * too unless the function says otherwise. Numbers of connections, files and listings are from 0 up, and one that was closed is
 * not given again soon, so using it then is -EBADF.
 *
 * Any thread may use any of them at any time. A process that came from fork(2) cannot use what its parent opened (-ENOTCONN): it
 * connects anew. No function ends the process, and none waits for servers longer than the connection's time-out. What the numbers of checkpoint
 * functions mean is a table of docs/clients.md; -ELIBBAD is a defect of the library itself.
 */

#ifndef HAYATE_H
#define HAYATE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// Its manifest is damaged.
#define HAYATE_CKPT_DAMAGED 0

// Its ranks write.
#define HAYATE_CKPT_OPEN 1

// A rank gave up, or did not come.
#define HAYATE_CKPT_ABORTED 2

// A restart from it failed.
#define HAYATE_CKPT_FAILED 3

// All ranks have closed.
#define HAYATE_CKPT_SEALED 4

// It can be restarted from.
#define HAYATE_CKPT_COMMITTED 5

// The servers say that all of it is in the shared tier, where manifest, seals and sizes are right. Its bytes are read by `hayate ckpt verify`.
#define HAYATE_CKPT_DURABLE 6

// Bytes of a name, with the zero at its end.
#define HAYATE_NAME_BYTES 256

// Attributes of a file, directory or symbolic link. Times are nanoseconds since 1970-01-01 UTC.
typedef struct {
  // Its number.
  uint64_t ino;
  // Bytes of a file, length of a symbolic link's target, entries of a directory.
  uint64_t size;
  // Last access.
  int64_t atime_ns;
  // Last change of content.
  int64_t mtime_ns;
  // Last change of attributes.
  int64_t ctime_ns;
  // Birth.
  int64_t btime_ns;
  // Counts changes of content that were published.
  uint64_t version;
  // Type and permissions, as in `st_mode`.
  uint32_t mode;
  // Hard links.
  uint32_t nlink;
  // Owner.
  uint32_t uid;
  // Group.
  uint32_t gid;
  // Device number of device nodes.
  uint32_t rdev;
  // Bytes that are best read and written at once: a chunk.
  uint32_t chunk_bytes;
} hayate_stat_t;

// How a version is written. Zeros, and what an older program does not know of, leave things as they are. All ranks give the same.
typedef struct {
  // `sizeof(hayate_ckpt_options_t)`.
  size_t size;
  // How long a commit waits for the other ranks, in milliseconds; 0: ten minutes.
  uint32_t timeout_ms;
  // Copies on other servers: how many may be lost.
  uint32_t copies;
  // With parity: servers with data (then `copies` must be 0), and servers with parity, which is how many may be lost.
  uint32_t parity_data;
  // See `parity_data`.
  uint32_t parity_extra;
  // When the servers copy to the shared tier: "close", "idle:SECONDS", "demand" or "never"; null: as the directory says.
  const char *flush;
  // 1: blocks of 1 MiB that are as in the version before are not stored again.
  int incremental;
  // Level of zstd for blocks where it saves an eighth or more (1 is fast); 0: nothing is compressed.
  int compress;
} hayate_ckpt_options_t;

// What is known of a version.
typedef struct {
  // Its number.
  uint64_t version;
  // Bytes that its ranks wrote; 0 unless it is committed.
  uint64_t bytes;
  // What became of it: `HAYATE_CKPT_OPEN` and so on.
  int state;
  // How many ranks wrote it; 0 unless it is committed.
  uint32_t nranks;
  // 1: it is not pruned.
  int pinned;
  // 0.
  int reserved;
} hayate_ckpt_info_t;

// What an application should do now.
typedef struct {
  // `sizeof(hayate_ckpt_advice_t)`, set by the caller.
  size_t size;
  // 1: write a checkpoint.
  int checkpoint;
  // 1: write a last one and end.
  int stop;
  // Seconds to compute before the next checkpoint.
  double next_s;
} hayate_ckpt_advice_t;

// How a connection differs from the usual. Zeros, and what an older program does not know of, leave things as they are.
typedef struct {
  // `sizeof(hayate_options_t)`, so that later fields can be told from garbage.
  size_t size;
  // Bytes for buffers, caches and open files together; 0: 256 MiB.
  uint64_t memory_bytes;
  // How long a call tries again while a server is away, in milliseconds; 0: 60,000.
  uint32_t timeout_ms;
  // How long names and attributes are trusted, in milliseconds; 0: 1,000; `UINT32_MAX`: never.
  uint32_t trust_ms;
} hayate_options_t;

// How a new file is made. Zeros, and what an older program does not know of, leave things as they are.
typedef struct {
  // `sizeof(hayate_open_options_t)`.
  size_t size;
  // "striped", "local" or "writer", and maybe a chunk size, as in "local,chunk=4M"; null: as the directory says.
  const char *layout;
  // Bytes that the file is expected to get, for the size of its chunks where `layout` names none; 0: not known.
  uint64_t expected_bytes;
} hayate_open_options_t;

// An entry of a directory.
typedef struct {
  // Inode number.
  uint64_t ino;
  // Its type, as in `st_mode`.
  uint32_t kind;
  // Whether `stat` is set: it was asked for, and the entry did not vanish meanwhile.
  uint32_t has_stat;
  // Attributes.
  hayate_stat_t stat;
  // Its name, which ends in a zero.
  char name[HAYATE_NAME_BYTES];
} hayate_entry_t;

// Space of all servers together; up to a second old.
typedef struct {
  // Bytes of the stores' file systems.
  uint64_t total_bytes;
  // Bytes still free.
  uint64_t free_bytes;
  // Inodes that exist.
  uint64_t inodes;
} hayate_space_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Attributes of what the path leads to.
int hayate_stat(int fs, const char *path, hayate_stat_t *stat);

// As hayate_stat, of the path's last name itself, also if it is a symbolic link.
int hayate_lstat(int fs, const char *path, hayate_stat_t *stat);

// Cuts or extends a file to `size` bytes.
int hayate_truncate(int fs, const char *path, int64_t size);

// Sets the permission bits.
int hayate_chmod(int fs, const char *path, uint32_t mode);

// Sets owner and group; `UINT32_MAX` leaves one as it is.
int hayate_chown(int fs, const char *path, uint32_t uid, uint32_t gid);

// Sets access and modification time, in nanoseconds since 1970-01-01 UTC; `INT64_MIN` leaves one as it is, `INT64_MAX` is now.
int hayate_utime(int fs,
                 const char *path,
                 int64_t atime_ns,
                 int64_t mtime_ns);

// Why the last call of this thread that failed did: a sentence, empty if none did. It stays until the thread's next call that fails.
const char *hayate_last_error(void);

// The version of the library, as in "0.1.0".
const char *hayate_version(void);

// Opens the checkpoint sets below directory `root`. All ranks of one run give the same `group`, every run another; null: by the environment
// (`HAYATE_GROUP`, Slurm's or PMIx's variables). `mount`: where the file system is mounted, for hayate_ckpt_route, or null. Answers a number for the
// functions below, which the connection's end does not close.
int hayate_ckpt_open(int fs,
                     const char *root,
                     const char *group,
                     const char *mount);

// Gives the number back, and forgets registered memory. Versions that are being written go on.
int hayate_ckpt_close(int ckpt);

// Registers memory that lies at byte `offset` of region `name`: hayate_ckpt_write_all writes it, hayate_ckpt_read_all reads it. It stays the
// caller's, and must be there until hayate_ckpt_unprotect or hayate_ckpt_close.
int hayate_ckpt_protect(int ckpt,
                        const char *name,
                        void *memory,
                        size_t size,
                        uint64_t offset);

// Forgets registered memory of this region; with a null pointer, all. Answers how many pieces.
int hayate_ckpt_unprotect(int ckpt, const char *name);

// Begins to write a version as `rank` of `nranks`, without waiting for the others; `options` may be null. Answers a number, which ends with
// hayate_ckpt_commit, hayate_ckpt_abort, or hayate_ckpt_seal and then hayate_ckpt_test or hayate_ckpt_join.
int hayate_ckpt_begin(int ckpt,
                      const char *set,
                      uint64_t version,
                      uint32_t rank,
                      uint32_t nranks,
                      const hayate_ckpt_options_t *options);

// Writes into a region at `offset`; answers `size`. The buffer may be changed when this returns.
int64_t hayate_ckpt_write(int writer, const char *name, const void *buffer, size_t size, uint64_t offset);

// Writes all registered memory; answers how many bytes.
int64_t hayate_ckpt_write_all(int writer);

// A path for a program that writes region `name` itself, with a zero behind it; answers its length. The file must be closed before the commit. With `-ERANGE`
// call it again, with more room.
int64_t hayate_ckpt_route(int writer,
                          const char *name,
                          char *path,
                          size_t size);

// Commits, if all ranks do so with `ok` not 0, and waits for them: all get the same answer. 0, or `-ECANCELED` if a rank said no, failed or did not come
// in time, `-EBUSY` if another group took over.
int hayate_ckpt_commit(int writer,
                       int ok);

// Seals this rank's part without waiting for the others. The number stays until the verdict is asked for.
int hayate_ckpt_seal(int writer, int ok);

// After hayate_ckpt_seal: 1 if the version is committed by now, 0 if not all ranks have sealed. With 1 or an error that is a verdict the number is given back.
int hayate_ckpt_test(int writer);

// After hayate_ckpt_seal: waits for the verdict; when the time is over and a rank is missing, the version is aborted for all. The number is given back.
int hayate_ckpt_join(int writer,
                     uint32_t timeout_ms);

// Gives the version up, for all ranks.
int hayate_ckpt_abort(int writer);

// The newest version to restart from that is less than `below` (0: any): 1 and its number, or 0 if there is none.
int hayate_ckpt_latest(int ckpt,
                       const char *set,
                       uint64_t below,
                       uint64_t *version);

// What became of a version: `HAYATE_CKPT_OPEN` and so on.
int hayate_ckpt_state(int ckpt, const char *set, uint64_t version);

// Waits until a version is `HAYATE_CKPT_SEALED`, `HAYATE_CKPT_COMMITTED` or `HAYATE_CKPT_DURABLE` (`level`), or more. `-ETIMEDOUT` if not in time.
int hayate_ckpt_wait(int ckpt,
                     const char *set,
                     uint64_t version,
                     int level,
                     uint32_t timeout_ms);

// Size of a region in bytes.
int64_t hayate_ckpt_size(int ckpt, const char *set, uint64_t version, const char *name);

// Reads from a region at `offset`, whoever wrote it; answers how many bytes, fewer only at its end. Every byte is checked.
int64_t hayate_ckpt_read(int ckpt,
                         const char *set,
                         uint64_t version,
                         const char *name,
                         void *buffer,
                         size_t size,
                         uint64_t offset);

// Reads all registered memory from a version; answers how many bytes. `-EINVAL` if a region is shorter than what was registered.
int64_t hayate_ckpt_read_all(int ckpt,
                             const char *set,
                             uint64_t version);

// The `index`-th region of a version, by name: 1, its name with a zero behind it, and its size; or 0 if there are no more.
int hayate_ckpt_region(int ckpt,
                       const char *set,
                       uint64_t version,
                       size_t index,
                       char *name,
                       size_t size,
                       uint64_t *bytes);

// Tells how the restart from a version ended: if not `ok`, it is not offered again.
int hayate_ckpt_finish(int ckpt, const char *set, uint64_t version, int ok);

// Says that a version is never pruned, or that it may be.
int hayate_ckpt_pin(int ckpt, const char *set, uint64_t version, int pinned);

// Removes one version, whichever it is: one that failed, is damaged or lost, say, whose number is to be written again. `-EBUSY` if the shared tier still has it
// after 20 s.
int hayate_ckpt_remove(int ckpt,
                       const char *set,
                       uint64_t version);

// Removes all but the newest `keep` complete versions, those that are pinned, and the newest durable one. Answers how many went.
int hayate_ckpt_prune(int ckpt,
                      const char *set,
                      size_t keep);

// All versions that somebody began, oldest first: stores up to `room` of them, each `info_size` bytes (`sizeof(hayate_ckpt_info_t)`) behind the one before, and
// answers how many there are.
int64_t hayate_ckpt_list(int ckpt,
                         const char *set,
                         hayate_ckpt_info_t *infos,
                         size_t info_size,
                         size_t room);

// How long the servers take, at their present rate, to bring to the shared tier what waits for it, and `more` bytes: 1 and the seconds, or 0 if no rate is known yet,
// or there is no shared tier. For hayate_ckpt_advise.
int hayate_ckpt_drain_time(int ckpt,
                           uint64_t more,
                           double *seconds);

// What is left of the job, if its launcher says when it ends (Slurm does, in `SLURM_JOB_END_TIME`): 1 and the seconds, or 0 if it is not said. For hayate_ckpt_advise.
int hayate_ckpt_time_left(double *seconds);

// What to do now: `mtbf_s` between failures of the whole job, `cost_s` that a checkpoint keeps the application from computing, `since_s` since the last one, `left_s`
// until the job's end (negative: unknown), `drain_s` until what is written now would be in the shared tier. All in seconds. `advice->size` is set before the call.
int hayate_ckpt_advise(double mtbf_s,
                       double cost_s,
                       double since_s,
                       double left_s,
                       double drain_s,
                       hayate_ckpt_advice_t *advice);

// Connects to the cluster whose file is `cluster`; if that is null, to that of the environment's `HAYATE_CLUSTER`, or else of
// the user's usual place. Answers the connection's number.
int hayate_connect(const char *cluster);

// As hayate_connect, with options, which may be null.
int hayate_connect_with(const char *cluster, const hayate_options_t *options);

// Ends a connection: its files and listings are closed, and what they wrote is published. Calls that other threads are in finish first.
// Answers the first failure, after everything was closed.
int hayate_disconnect(int fs);

// Opens a regular file, as open(2) does; answers its number. `mode` are the permission bits of a new file, from which the process's umask is taken.
// Flags: `O_RDONLY`, `O_WRONLY` or `O_RDWR`, with `O_CREAT`, `O_EXCL`, `O_TRUNC`, `O_APPEND`, `O_SYNC` and `O_DSYNC`. `O_CLOEXEC`, `O_NOCTTY`,
// `O_NONBLOCK`, `O_NOATIME`, `O_DIRECT` and `O_LARGEFILE` mean nothing here and are taken; others are `-EINVAL`.
int hayate_open(int fs,
                const char *path,
                int flags,
                uint32_t mode);

// As hayate_open, with options, which may be null. A file that was there keeps its layout.
int hayate_open_with(int fs,
                     const char *path,
                     int flags,
                     uint32_t mode,
                     const hayate_open_options_t *options);

// Closes a file, and says whether what was written is published. After a failure it is closed, too. Calls that other threads are in finish first.
int hayate_close(int file);

// Reads up to `size` bytes at `offset`; answers how many, fewer only at the end of the file.
int64_t hayate_pread(int file, void *buffer, size_t size, int64_t offset);

// Writes `size` bytes at `offset`, or, as on Linux, at the end if the file was opened with `O_APPEND`. Answers `size`: it writes all or fails; after a failure a
// part may be written. The buffer may be used again at once. The bytes lie at the servers then; hayate_fsync makes them durable.
int64_t hayate_pwrite(int file,
                      const void *buffer,
                      size_t size,
                      int64_t offset);

// Writes `size` bytes at the end of the file, wherever that is by then, and answers where that was. Of all appends, from whichever node, each of
// up to 16 MiB lies whole behind the one before.
int64_t hayate_append(int file,
                      const void *buffer,
                      size_t size);

// Makes what was written durable, data and attributes, and publishes it.
int hayate_fsync(int file);

// Publishes size and time of what was written, so that others see them at once: what closing does, too.
int hayate_flush(int file);

// Cuts or extends a file that is open for writing to `size` bytes.
int hayate_ftruncate(int file, int64_t size);

// Copies up to `size` bytes from one open file of a connection to another; answers how many, fewer only at the end of the first. The bytes go from
// server to server, and holes are copied as holes.
int64_t hayate_copy(int from,
                    int64_t from_offset,
                    int to,
                    int64_t to_offset,
                    uint64_t size);

// Attributes of an open file, as they are now.
int hayate_fstat(int file, hayate_stat_t *stat);

// Begins a listing of a directory; answers its number. With `attributes` not 0 every entry has its attributes.
int hayate_opendir(int fs,
                   const char *path,
                   int attributes);

// The next entry, in no order that means anything, without "." and "..": 1, or 0 if there are no more.
int hayate_readdir(int listing, hayate_entry_t *entry);

// Ends a listing.
int hayate_closedir(int listing);

// Makes a directory; the process's umask is taken from `mode`.
int hayate_mkdir(int fs, const char *path, uint32_t mode);

// Makes a directory and those above it that are missing. It is no error if it exists.
int hayate_mkdir_all(int fs, const char *path, uint32_t mode);

// Removes a name that is not a directory.
int hayate_unlink(int fs, const char *path);

// Removes an empty directory.
int hayate_rmdir(int fs, const char *path);

// Moves a name, a file's or a directory's, over whatever may be at the new one.
int hayate_rename(int fs, const char *from, const char *to);

// Gives the file at `from` the further name `to`. A symbolic link at `from` is not followed.
int hayate_link(int fs, const char *from, const char *to);

// Makes a symbolic link at `path` that says `target`.
int hayate_symlink(int fs, const char *target, const char *path);

// What a symbolic link says, without a zero at the end, and cut to `size` bytes, as by readlink(2). Answers how many bytes were stored.
int64_t hayate_readlink(int fs,
                        const char *path,
                        void *buffer,
                        size_t size);

// Space of all servers together.
int hayate_statfs(int fs, hayate_space_t *space);

// Makes the servers copy a file to tier 2 now, whatever the policy that holds for it, and returns without waiting for that. What this process wrote is
// published before; a file that somebody has open for writing is copied when it is closed. Whether it is there is told by the extended attribute `user.hayate.durable` (`yes` or `no`).
int hayate_tier_flush(int fs,
                      const char *path);

// Makes a file with this content, or replaces the content of one that is there. One message for a small file; of a larger one others
// may see a part meanwhile. Answers `size`.
int64_t hayate_put(int fs,
                   const char *path,
                   const void *buffer,
                   size_t size,
                   uint32_t mode);

// All of a file, one message for a small one. Answers how many bytes it has. If there is not so much room it is `-ERANGE`, and the buffer is
// as it was; hayate_stat tells how large it is.
int64_t hayate_get(int fs,
                   const char *path,
                   void *buffer,
                   size_t size);

// Sets an extended attribute. `flags` as of setxattr(2): 0, `XATTR_CREATE` (fail if it exists) or `XATTR_REPLACE` (fail if it does not).
int hayate_setxattr(int fs,
                    const char *path,
                    const char *name,
                    const void *value,
                    size_t size,
                    int flags);

// Value of an extended attribute. Answers how many bytes it has; if there is not so much room it is `-ERANGE`, but with `size` 0 nothing is stored and no room needed.
int64_t hayate_getxattr(int fs,
                        const char *path,
                        const char *name,
                        void *value,
                        size_t size);

// Names of all extended attributes, each with a zero behind it. Answers how many bytes that are, as hayate_getxattr does.
int64_t hayate_listxattr(int fs,
                         const char *path,
                         void *names,
                         size_t size);

// Removes an extended attribute.
int hayate_removexattr(int fs, const char *path, const char *name);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HAYATE_H */
