/*
 * Functions of CHFS's public interface, as libchfs.so of Hayate offers them: see docs/clients.md. They return -1 (chfs_path_at: NULL) and set errno when
 * they fail, and hayate_last_error() then has words for it.
 */
#ifndef HAYATE_CHFS_H
#define HAYATE_CHFS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Not looked at, and never answered. */
#define CHFS_O_CACHE (1 << 28)
#define CHFS_S_IFREP (4 << 28)

#ifdef __cplusplus
extern "C" {
#endif

typedef int (*hayate_chfs_filler_t)(void *, const char *, const struct stat *, off_t);

/* session.rs */
int chfs_init(const char *server);
int chfs_initialized(void);
int chfs_term(void);
int chfs_term_without_sync(void);
int chfs_size(void);
const char *chfs_version(void);
void chfs_set_chunk_size(int chunk_size);
void chfs_set_rpc_timeout_msec(int timeout);
void chfs_set_stagein_buf_size(int buf_size);
void chfs_set_buf_size(int buf_size);
void chfs_set_async_access(int enable);
void chfs_set_rdma_thresh(size_t thresh);
void chfs_set_node_list_cache_timeout(int timeout);

/* files.rs */
int chfs_create(const char *path, int32_t flags, mode_t mode);
int chfs_create_chunk_size(const char *path, int32_t flags, mode_t mode, int chunk_size);
int chfs_open(const char *path, int32_t flags);
int chfs_close(int fd);
ssize_t chfs_pwrite(int fd, const void *buf, size_t size, off_t offset);
ssize_t chfs_write(int fd, const void *buf, size_t size);
ssize_t chfs_pread(int fd, void *buf, size_t size, off_t offset);
ssize_t chfs_read(int fd, void *buf, size_t size);
off_t chfs_seek(int fd, off_t off, int whence);
int chfs_fsync(int fd);
int chfs_ftruncate(int fd, off_t len);

/* names.rs */
int chfs_unlink(const char *path);
int chfs_mkdir(const char *path, mode_t mode);
int chfs_rmdir(const char *path);
int chfs_symlink(const char *target, const char *path);
int chfs_readlink(const char *path, char *buf, size_t size);
int chfs_chdir(const char *path);
int chfs_fchdir(int fd);
char *chfs_path_at(int fd, const char *path);

/* attributes.rs */
int chfs_stat(const char *path, struct stat *st);
int chfs_fstat(int fd, struct stat *st);
int chfs_access(const char *path, int mode);
int chfs_truncate(const char *path, off_t len);

/* listing.rs */
int chfs_readdir(const char *path, void *buf, hayate_chfs_filler_t filler);
int chfs_readdir_index(const char *path, int index, void *buf, hayate_chfs_filler_t filler);

/* staging.rs */
void chfs_sync(void);
int chfs_stagein(const char *path);

#ifdef __cplusplus
}
#endif

#endif
