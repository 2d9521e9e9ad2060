//! What one rank writes of one region.

use std::path::PathBuf;

use fs_client::File;

use crate::error::{Error, Result};
use crate::format::{SealedRegion, Spread};
use crate::register::Disk;
use crate::spread::{Parts, Plan};
use crate::sums::RegionSums;

/// Bytes read at once of a routed file.
const READ_BYTES: usize = 4 << 20;

/// Where the bytes go.
enum Body {
    /// One file.
    Plain(File),
    /// Parts on several servers.
    Spread(Box<Parts>),
    /// A file that somebody else writes.
    Routed,
}

pub(crate) struct Region {
    disk: Disk,
    name: String,
    number: usize,
    path: String,
    plan: Option<Plan>,
    body: Body,
    sums: RegionSums,
}

impl Region {
    /// A new one, the rank's `number`-th, at `path`.
    pub fn create(
        disk: &Disk,
        name: &str,
        number: usize,
        path: String,
        plan: Option<&Plan>,
    ) -> Result<Region> {
        let body = match plan {
            Some(plan) => Body::Spread(Box::new(Parts::create(disk, plan, &path, &number.to_string())?)),
            None => Body::Plain(disk.create(&path)?),
        };
        let (disk, name, plan) = (disk.clone(), name.to_owned(), plan.cloned());
        Ok(Region { disk, name, number, path, plan, body, sums: RegionSums::default() })
    }

    /// A new one that somebody writes by the path that is answered, too.
    pub fn routed(
        disk: &Disk,
        name: &str,
        number: usize,
        path: String,
        plan: Option<&Plan>,
    ) -> Result<(Region, PathBuf)> {
        disk.create(&path)?.close()?;
        let shown = disk.in_mount(&path);
        let (disk, name, plan) = (disk.clone(), name.to_owned(), plan.cloned());
        Ok((
            Region { disk, name, number, path, plan, body: Body::Routed, sums: RegionSums::default() },
            shown,
        ))
    }

    pub fn is_routed(&self) -> bool {
        matches!(self.body, Body::Routed)
    }

    pub fn write(&mut self, data: &[u8], offset: u64) -> Result<()> {
        self.disk.step("write")?;
        match &mut self.body {
            Body::Plain(file) => file.write_at(data, offset)?,
            Body::Spread(parts) => parts.write(data, offset)?,
            Body::Routed => {}
        }
        self.sums.note(data, offset);
        Ok(())
    }

    /// Fills `buf` with what was written.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match &self.body {
            Body::Spread(parts) => parts.read(buf, offset),
            Body::Plain(file) => fill(file, &self.name, buf, offset),
            Body::Routed => Ok(()),
        }
    }

    /// Makes it durable and answers what is in it.
    pub fn seal(mut self) -> Result<SealedRegion> {
        if self.is_routed() {
            self.take_routed()?;
        }
        let runs = self.sums.finish(|buf, offset| self.read(buf, offset))?;
        let Region { disk, name, body, sums, .. } = self;
        let spread = seal_body(&disk, body, sums.extents().end())?;
        let extents = sums.extents().clone().into_ranges();
        Ok(SealedRegion { name, extents, runs, spread, packed: None })
    }

    /// Takes over what somebody else wrote: sums it, and with redundancy writes it again, to its parts.
    fn take_routed(&mut self) -> Result<()> {
        let file = self.disk.open_for_sync(&self.path)?;
        let size = file.attr()?.size;
        if let Some(plan) = &self.plan {
            let parts = Parts::create(&self.disk, plan, &self.path, &self.number.to_string())?;
            self.body = Body::Spread(Box::new(parts));
        }
        let (mut buf, mut offset) = (vec![0; READ_BYTES.min(size as usize)], 0);
        while offset < size {
            let some = (size - offset).min(READ_BYTES as u64) as usize;
            fill(&file, &self.name, &mut buf[..some], offset)?;
            self.write(&buf[..some], offset)?;
            offset += some as u64;
        }
        if self.is_routed() {
            self.body = Body::Plain(file);
            return Ok(());
        }
        file.close()?;
        self.disk.remove_file(&self.path)
    }
}

fn seal_body(disk: &Disk, body: Body, end: u64) -> Result<Option<Spread>> {
    match body {
        Body::Spread(parts) => parts.seal(end).map(Some),
        Body::Plain(file) => {
            disk.step("sync")?;
            file.sync()?;
            disk.step("close")?;
            file.close()?;
            Ok(None)
        }
        Body::Routed => Ok(None),
    }
}

fn fill(file: &File, name: &str, buf: &mut [u8], offset: u64) -> Result<()> {
    match file.read_at(buf, offset) {
        Ok(read) if read == buf.len() => Ok(()),
        Ok(read) => Err(Error::corrupt(name, format!("{read} of {} bytes at {offset} are there", buf.len()))),
        Err(e) => Err(e.into()),
    }
}
