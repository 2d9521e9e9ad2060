//! Message buffers that a device knows.

use super::device::{Device, Registration};
use super::kind::Purpose;
use super::record::MESSAGE_BYTES;
use super::sys::Sge;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;

/// Registered message buffers, one after the other.
pub(super) struct Slots {
    registration: Option<Registration>,
    base: NonNull<u8>,
    layout: Layout,
}

impl Slots {
    pub fn new(device: &'static Device, count: usize) -> io::Result<Slots> {
        let layout =
            Layout::from_size_align(count * MESSAGE_BYTES, 4096).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        let mut slots = Slots { registration: None, base, layout };
        // SAFETY: the memory stays until the registration is dropped (`Drop`).
        slots.registration =
            Some(unsafe { device.register((base.as_ptr() as usize, layout.size()), Purpose::Messages) }?);
        Ok(slots)
    }

    pub fn at(&self, slot: u32) -> NonNull<u8> {
        let from = slot as usize * MESSAGE_BYTES;
        assert!(from < self.layout.size());
        // SAFETY: within the allocation.
        unsafe { self.base.add(from) }
    }

    pub fn sge(&self, slot: u32, len: usize) -> Sge {
        let lkey = self.registration.as_ref().map_or(0, |registration| registration.keys().local);
        Sge { addr: self.at(slot).as_ptr() as u64, length: len as u32, lkey }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.registration = None;
        // SAFETY: allocated with this layout; the device knows it no more.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
