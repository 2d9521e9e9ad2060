//! Operations on names.

use bytes::Bytes;
use fs_proto::msg::Caller;
use fs_proto::msg::inode::Getattr;
use fs_proto::msg::name::{Create, Created, Link, Lookup, Mkdir, Rename, Rmdir, Unlink};
use fs_proto::placement::name_hash;
use fs_proto::{Attr, InodeId, NAME_MAX, Status};

use super::Core;
use super::looking::{Look, is_gone, looking};
use crate::error::{Error, Result};
use crate::router::Target;

/// Where a name's requests go. Names that no server would take are refused here.
pub(super) fn name_target(parent: InodeId, name: &[u8]) -> Result<Target> {
    if name.len() > NAME_MAX {
        return Err(Error::status(
            Status::NameTooLong,
            format!("a name of {} bytes; {NAME_MAX} are allowed", name.len()),
        ));
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        let name = String::from_utf8_lossy(name);
        return Err(Error::status(Status::Invalid, format!("{name:?} cannot be a name")));
    }
    Ok(Target::Name { parent, hash: name_hash(parent, name) })
}

impl Core {
    /// See [`crate::Client::lookup`].
    pub async fn lookup(&self, who: &Caller, parent: InodeId, name: &[u8]) -> Result<Attr> {
        let target = name_target(parent, name)?;
        let request = Lookup { parent, name: Bytes::copy_from_slice(name) };
        looking(async || {
            let entry = self.ask(who, target, &request).await?;
            let attr = match self.attr_or_ask(who, entry.ino, entry.attr).await {
                Err(e) if is_gone(&e) => return Ok(Look::Gone(e)),
                attr => attr?,
            };
            self.shared.cache.put_entry(parent, name, entry.ino, entry.kind);
            Ok(Look::At(attr))
        })
        .await
    }

    /// Attributes that came along, or else asked for; with what was written here.
    pub(super) async fn attr_or_ask(&self, who: &Caller, ino: InodeId, attr: Option<Attr>) -> Result<Attr> {
        let mut attr = match attr {
            Some(attr) => attr,
            None => self.ask(who, Target::home(ino), &Getattr { ino }).await?,
        };
        if let Some(inode) = self.shared.opens.doubted(&attr) {
            return self.settle(who, &inode).await;
        }
        self.note_attr(&mut attr);
        Ok(attr)
    }

    /// Takes attributes that a server answered: notes wide directories, remembers them, adds what was written here.
    pub(super) fn note_attr(&self, attr: &mut Attr) {
        if attr.wide && attr.is_dir() {
            self.shared.note_wide(attr.ino);
        }
        self.shared.opens.merge(attr);
        self.shared.cache.put_attr(attr);
    }

    /// See [`crate::Client::create`].
    pub async fn create(&self, who: &Caller, what: Create) -> Result<(Attr, bool)> {
        let what = Create { open: None, ..what };
        let created = self.send_create(who, &what).await?;
        let attr = self.attr_or_ask(who, created.ino, created.attr).await?;
        Ok((attr, created.fresh))
    }

    pub(super) async fn send_create(&self, who: &Caller, what: &Create) -> Result<Created> {
        let target = name_target(what.parent, &what.name)?;
        self.shared.cache.drop_entry(what.parent, &what.name);
        let created = self.ask(who, target, what).await?;
        self.shared.cache.put_entry(what.parent, &what.name, created.ino, created.kind);
        Ok(created)
    }

    /// See [`crate::Client::mkdir`].
    pub async fn mkdir(&self, who: &Caller, parent: InodeId, name: &[u8], mode: u32) -> Result<Attr> {
        let target = name_target(parent, name)?;
        self.shared.cache.drop_entry(parent, name);
        let request = Mkdir { parent, name: Bytes::copy_from_slice(name), mode };
        let mut attr = self.ask(who, target, &request).await?;
        self.note_attr(&mut attr);
        self.shared.cache.put_entry(parent, name, attr.ino, attr.kind);
        Ok(attr)
    }

    /// See [`crate::Client::unlink`].
    pub async fn unlink(&self, who: &Caller, parent: InodeId, name: &[u8]) -> Result<()> {
        let target = name_target(parent, name)?;
        self.forget_name(parent, name);
        let request = Unlink { parent, name: Bytes::copy_from_slice(name) };
        let done = self.ask(who, target, &request).await;
        self.forget_name(parent, name); // Others may have looked it up meanwhile.
        done
    }

    /// See [`crate::Client::rmdir`].
    pub async fn rmdir(&self, who: &Caller, parent: InodeId, name: &[u8]) -> Result<()> {
        let target = name_target(parent, name)?;
        self.forget_name(parent, name);
        let request = Rmdir { parent, name: Bytes::copy_from_slice(name) };
        let done = self.ask(who, target, &request).await;
        self.forget_name(parent, name);
        done
    }

    /// See [`crate::Client::rename`]; `from` and `to` are a directory and a name in it.
    pub async fn rename(
        &self,
        who: &Caller,
        from: (InodeId, &[u8]),
        to: (InodeId, &[u8]),
        no_replace: bool,
        exchange: bool,
    ) -> Result<()> {
        let target = name_target(from.0, from.1)?;
        name_target(to.0, to.1)?;
        let request = Rename {
            parent: from.0,
            name: Bytes::copy_from_slice(from.1),
            new_parent: to.0,
            new_name: Bytes::copy_from_slice(to.1),
            no_replace,
            exchange,
        };
        let forget = || {
            self.forget_name(from.0, from.1);
            self.forget_name(to.0, to.1);
        };
        forget();
        let done = self.ask(who, target, &request).await;
        forget();
        done
    }

    /// See [`crate::Client::link`].
    pub async fn link(&self, who: &Caller, ino: InodeId, parent: InodeId, name: &[u8]) -> Result<Attr> {
        let target = name_target(parent, name)?;
        self.forget_name(parent, name);
        let request = Link { ino, parent, name: Bytes::copy_from_slice(name) };
        let mut attr = self.ask(who, target, &request).await?;
        self.note_attr(&mut attr);
        Ok(attr)
    }

    /// Forgets a name, the attributes of what it stood for, and those of its directory.
    fn forget_name(&self, parent: InodeId, name: &[u8]) {
        let cache = &self.shared.cache;
        if let Some((ino, _)) = cache.entry(parent, &Bytes::copy_from_slice(name)) {
            cache.drop_attr(ino);
        }
        cache.drop_entry(parent, name);
    }
}
