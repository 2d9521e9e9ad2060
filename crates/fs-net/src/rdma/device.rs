//! The RDMA devices of this process: opened once, with one protection domain each, for the process's life.

use super::counters::PortUse;
use super::interfaces;
use super::kind::{Kind, Purpose, reads_at_once};
use super::sys::{self, Api, Context, DeviceAttr, Opaque, api};
use std::ffi::{CStr, c_int};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static REGISTERED_BYTES: AtomicU64 = AtomicU64::new(0);
static REGISTRATIONS: AtomicU64 = AtomicU64::new(0);

/// Bytes that are registered now (once per device), and registrations since the start.
pub(super) fn figures() -> (u64, u64) {
    (REGISTERED_BYTES.load(Ordering::Relaxed), REGISTRATIONS.load(Ordering::Relaxed))
}

/// A device that is open.
pub struct Device {
    /// Its name, such as `mlx5_0`.
    pub name: String,
    /// Its place among the devices of this process.
    pub index: usize,
    /// What it speaks.
    pub(super) kind: Kind,
    /// Reads that a connection answers at once, and that it asks for at once.
    pub(super) reads: (u8, u8),
    pub(super) api: &'static Api,
    pub(super) context: *mut Context,
    pub(super) pd: *mut Opaque,
    /// What goes over its ports, which are numbered from 1. At least one.
    ports: Vec<PortUse>,
}

// SAFETY: the libraries' objects may be used from any thread; these are never closed.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// All devices of this node, opened at the first call. The error is for people.
pub(super) fn devices() -> Result<&'static [Device], &'static str> {
    static DEVICES: OnceLock<Result<Vec<Device>, String>> = OnceLock::new();
    let opened = DEVICES.get_or_init(open_all).as_deref().map_err(String::as_str);
    if opened.is_ok() && !sys::is_owner() {
        return Err("a child that was forked does not use its parent's RDMA devices");
    }
    opened
}

/// Whether the kernel has any, usable or not.
pub(super) fn are_there() -> bool {
    std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

/// The device that a connection's context is of.
pub(super) fn device_of(context: *mut Context) -> Option<&'static Device> {
    devices().ok()?.iter().find(|device| device.context == context)
}

fn open_all() -> Result<Vec<Device>, String> {
    let api = api()?;
    let mut count: c_int = 0;
    // SAFETY: `count` is written; the list is never freed, so its contexts stay open.
    let list = unsafe { (api.rdma_get_devices)(&raw mut count) };
    let mut found = Vec::new();
    for at in 0..usize::try_from(count).unwrap_or(0) {
        if list.is_null() {
            break;
        }
        // SAFETY: the list has `count` entries.
        let context = unsafe { *list.add(at) };
        if let Some(device) = open(api, context, found.len()) {
            found.push(device);
        }
    }
    if found.is_empty() {
        return Err(
            "there is no RDMA device that this user may open, of InfiniBand, RoCE or iWARP".to_owned()
        );
    }
    Ok(found)
}

fn open(api: &'static Api, context: *mut Context, index: usize) -> Option<Device> {
    // SAFETY: an open context, and its device.
    let kind = Kind::of(unsafe { (*(*context).device).transport_type })?;
    // SAFETY: an open context; its device's name is a string that lives as long.
    let (pd, name) = unsafe {
        let name = CStr::from_ptr((api.ibv_get_device_name)((*context).device));
        ((api.ibv_alloc_pd)(context), name.to_string_lossy().into_owned())
    };
    let mut can = DeviceAttr::unknown();
    // SAFETY: an open context; what is written to is as large as the library's structure.
    if unsafe { (api.ibv_query_device)(context, &raw mut can) } != 0 {
        tracing::debug!(name, "the device does not say what it can do");
    }
    let reads = (reads_at_once(can.max_qp_rd_atom), reads_at_once(can.max_qp_init_rd_atom));
    let last = interfaces::ports(&name).last().map_or(1, |(number, _)| (*number).max(1));
    let ports = (1..=last).map(|_| PortUse::default()).collect();
    (!pd.is_null()).then_some(Device { name, index, kind, reads, api, context, pd, ports })
}

impl Device {
    /// What goes over a port.
    pub(super) fn port(&self, number: u32) -> &PortUse {
        let at = (number as usize).clamp(1, self.ports.len()) - 1;
        &self.ports[at]
    }

    /// Registers memory.
    ///
    /// # Safety
    /// The memory stays until the registration is dropped, and nobody uses what is being received into it.
    pub(super) unsafe fn register(
        &'static self,
        (at, len): (usize, usize),
        purpose: Purpose,
    ) -> std::io::Result<Registration> {
        let access = self.kind.access(purpose);
        // SAFETY: by this function's contract.
        let mr = unsafe { (self.api.ibv_reg_mr)(self.pd, at as *mut _, len, access) };
        if mr.is_null() {
            return Err(std::io::Error::last_os_error());
        }
        REGISTERED_BYTES.fetch_add(len as u64, Ordering::Relaxed);
        REGISTRATIONS.fetch_add(1, Ordering::Relaxed);
        Ok(Registration { device: self, mr, len, access })
    }
}

/// Registered memory.
pub(super) struct Registration {
    device: &'static Device,
    mr: *mut sys::Mr,
    len: usize,
    access: c_int,
}

// SAFETY: may be used and ended by any thread.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

/// What names registered memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keys {
    /// Here.
    pub local: u32,
    /// To peers.
    pub remote: u32,
}

impl Registration {
    /// Whether it is with this device, and does for this purpose.
    pub fn is_for(&self, device: &Device, purpose: Purpose) -> bool {
        self.device.index == device.index && self.access == device.kind.access(purpose)
    }

    pub fn keys(&self) -> Keys {
        // SAFETY: registered until dropped.
        let mr = unsafe { &*self.mr };
        Keys { local: mr.lkey, remote: mr.rkey }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !sys::is_owner() {
            return;
        }
        // SAFETY: registered once, ended once.
        unsafe { (self.device.api.ibv_dereg_mr)(self.mr) };
        REGISTERED_BYTES.fetch_sub(self.len as u64, Ordering::Relaxed);
    }
}
