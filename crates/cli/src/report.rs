//! Where a list goes that somebody names a file for: a regular file is replaced, whole or not at all; a symbolic link stays, and what it leads to is replaced;
//! whatever cannot be replaced, a pipe, a terminal, a descriptor of another program, is written into.

use std::fs::{self, File};
use std::io::{self, BufWriter, IntoInnerError};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::place;

/// Links that are followed.
const LINKS_MAX: usize = 40;

/// What is behind a name.
#[derive(Debug, PartialEq, Eq)]
enum Behind {
    /// A regular file, or nothing yet, under this name.
    File(PathBuf),
    /// Something else: it is written into.
    Stream,
}

/// Writes a list to `file` by `write`.
pub fn write<R>(file: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<R>) -> io::Result<R> {
    match behind(file)? {
        Behind::Stream => {
            let mut out = BufWriter::new(stream(file)?);
            let told = write(&mut out)?;
            out.into_inner().map_err(IntoInnerError::into_error)?;
            Ok(told)
        }
        Behind::File(file) => {
            let temporary = place::beside(&file);
            let written = replace(&file, &temporary, write);
            if written.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            written
        }
    }
}

fn replace<R>(
    file: &Path,
    temporary: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<R>,
) -> io::Result<R> {
    let mut out = BufWriter::new(File::create(temporary)?);
    let told = write(&mut out)?;
    out.into_inner().map_err(IntoInnerError::into_error)?.sync_all()?;
    fs::rename(temporary, file)?;
    Ok(told)
}

/// Follows links by hand: those of /proc, as under /dev/stdout and /dev/fd, lead to what is open and not to a name, even if that has one.
fn behind(file: &Path) -> io::Result<Behind> {
    let mut file = file.to_owned();
    for _ in 0..LINKS_MAX {
        let meta = match fs::symlink_metadata(&file) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Behind::File(file)),
            Err(error) => return Err(error),
        };
        if !meta.is_symlink() {
            return Ok(if meta.is_file() { Behind::File(file) } else { Behind::Stream });
        }
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if fs::canonicalize(dir)?.starts_with("/proc") {
            return Ok(Behind::Stream);
        }
        file = dir.join(fs::read_link(&file)?);
    }
    Err(io::Error::other("too many symbolic links"))
}

/// What is written into. This program's own output goes on where it is.
fn stream(file: &Path) -> io::Result<File> {
    let meta = fs::metadata(file)?;
    let (out, err) = (io::stdout(), io::stderr());
    for own in [out.as_fd(), err.as_fd()] {
        let own = File::from(own.try_clone_to_owned()?);
        let stat = own.metadata()?;
        if (stat.dev(), stat.ino()) == (meta.dev(), meta.ino()) {
            return Ok(own);
        }
    }
    File::options().append(true).open(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    fn put(file: &Path, text: &str) -> io::Result<()> {
        write(file, |out| out.write_all(text.as_bytes()))
    }

    #[test]
    fn files_are_replaced_and_links_stay() {
        // Goal: what others have open of a regular file stays what it was, also behind links, which stay; a failure leaves nothing, and the old file.
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("two", at("one")).unwrap();
        symlink(at("target"), at("two")).unwrap();
        put(&at("one"), "first").unwrap();
        let mut open = File::open(at("target")).unwrap();
        put(&at("one"), "second").unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!((&text[..], &fs::read_to_string(at("target")).unwrap()[..]), ("first", "second"));
        assert!(at("one").is_symlink() && at("two").is_symlink());
        write(&at("one"), |_| Err::<(), _>(io::Error::other("no"))).unwrap_err();
        assert_eq!(fs::read_to_string(at("target")).unwrap(), "second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        symlink("loop", at("loop")).unwrap();
        put(&at("loop"), "").unwrap_err();
        put(dir.path(), "").unwrap_err();
    }

    #[test]
    fn what_cannot_be_replaced_is_written_into() {
        // Goal: a pipe stays a pipe, and its reader gets the list; so does who opened a file and names its descriptor, behind what is there.
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        symlink("pipe", dir.path().join("link")).unwrap();
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::read_to_string(pipe).unwrap())
        };
        put(&dir.path().join("link"), "list").unwrap();
        assert_eq!(reader.join().unwrap(), "list");
        assert!(!fs::symlink_metadata(&pipe).unwrap().is_file());
        let file = dir.path().join("file");
        fs::write(&file, "before ").unwrap();
        let open = File::options().append(true).open(&file).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        put(&PathBuf::from(format!("/dev/fd/{number}")), "list").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "before list");
    }
}
