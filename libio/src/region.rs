//! What one rank writes of one region.

use std::path::PathBuf;

use fs_client::File;

use crate::error::{Error, Result};
use crate::format::SealedRegion;
use crate::register::Disk;
use crate::sums::RegionSums;

/// Bytes read at once of a routed file.
const READ_BYTES: usize = 4 << 20;

pub(crate) struct Region {
    disk: Disk,
    name: String,
    path: String,
    /// None: somebody writes it by its path.
    file: Option<File>,
    sums: RegionSums,
}

impl Region {
    /// A new one, in a file at `path`.
    pub fn create(disk: &Disk, name: &str, path: String) -> Result<Region> {
        let file = Some(disk.create(&path)?);
        Ok(Region { disk: disk.clone(), name: name.to_owned(), path, file, sums: RegionSums::default() })
    }

    pub fn is_routed(&self) -> bool {
        self.file.is_none()
    }

    pub fn write(&mut self, data: &[u8], offset: u64) -> Result<()> {
        self.disk.step("write")?;
        if let Some(file) = &self.file {
            file.write_at(data, offset)?;
            self.sums.note(data, offset);
        }
        Ok(())
    }

    /// Gives the file to somebody who writes it by its path, which is answered.
    pub fn route(&mut self) -> Result<PathBuf> {
        if let Some(file) = self.file.take() {
            file.close()?;
        }
        Ok(self.disk.in_mount(&self.path))
    }

    /// Makes it durable and answers what is in it.
    pub fn seal(mut self) -> Result<SealedRegion> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.read_routed()?,
        };
        let runs = self.sums.finish(|buf, offset| fill(&file, &self.name, buf, offset))?;
        self.disk.step("sync")?;
        file.sync()?;
        self.disk.step("close")?;
        file.close()?;
        Ok(SealedRegion { name: self.name, extents: self.sums.extents().clone().into_ranges(), runs })
    }

    /// Sums what somebody else wrote.
    fn read_routed(&mut self) -> Result<File> {
        let file = self.disk.open_for_sync(&self.path)?;
        let size = file.attr()?.size;
        let (mut buf, mut offset) = (vec![0; READ_BYTES.min(size as usize)], 0);
        while offset < size {
            let some = (size - offset).min(READ_BYTES as u64) as usize;
            fill(&file, &self.name, &mut buf[..some], offset)?;
            self.sums.note(&buf[..some], offset);
            offset += some as u64;
        }
        Ok(file)
    }
}

fn fill(file: &File, name: &str, buf: &mut [u8], offset: u64) -> Result<()> {
    match file.read_at(buf, offset) {
        Ok(read) if read == buf.len() => Ok(()),
        Ok(read) => Err(Error::corrupt(name, format!("{read} of {} bytes at {offset} are there", buf.len()))),
        Err(e) => Err(e.into()),
    }
}
