//! What is used of libibverbs and librdmacm, loaded at run time: one binary runs on nodes with and without them.
//!
//! The structures are those of the libraries' binary interface (`libibverbs.so.1`, `librdmacm.so.1`), which has not changed since 2008; the
//! assertions below hold what `offsetof` of rdma-core 44 says. Posting and polling are functions that a device's context points to.

#![allow(missing_docs)]
#![allow(clippy::struct_field_names)] // they are the libraries'

use libloading::Library;
use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Something that only the libraries look into.
#[repr(C)]
pub struct Opaque {
    _private: [u8; 0],
}

type Ptr = *const c_void;

#[repr(C)]
pub struct ContextOps {
    _before: [Ptr; 11],
    pub poll_cq: Option<unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int>,
    pub req_notify_cq: Option<unsafe extern "C" fn(*mut Cq, c_int) -> c_int>,
    _middle: [Ptr; 7],
    pub post_srq_recv: Option<unsafe extern "C" fn(*mut Srq, *mut RecvWr, *mut *mut RecvWr) -> c_int>,
    _later: [Ptr; 4],
    pub post_send: Option<unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int>,
    pub post_recv: Option<unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int>,
    _rest: [Ptr; 5],
}

/// The beginning of a device.
#[repr(C)]
pub struct DeviceHead {
    _ops: [Ptr; 2],
    _node_type: c_int,
    pub transport_type: c_int,
}

/// What a device can do, of which a little is looked at here.
#[repr(C, align(8))]
pub struct DeviceAttr {
    _before: [u8; 144],
    pub max_qp_rd_atom: c_int,
    _between: [c_int; 2],
    pub max_qp_init_rd_atom: c_int,
    _after: [u8; 72],
}

impl DeviceAttr {
    pub fn unknown() -> DeviceAttr {
        DeviceAttr {
            _before: [0; 144],
            max_qp_rd_atom: 0,
            _between: [0; 2],
            max_qp_init_rd_atom: 0,
            _after: [0; 72],
        }
    }
}

/// The beginning of a device's context.
#[repr(C)]
pub struct Context {
    pub device: *mut DeviceHead,
    pub ops: ContextOps,
}

/// The beginning of a completion queue.
#[repr(C)]
pub struct Cq {
    pub context: *mut Context,
}

/// The beginning of a shared receive queue.
#[repr(C)]
pub struct Srq {
    pub context: *mut Context,
}

/// The beginning of a queue pair.
#[repr(C)]
pub struct Qp {
    pub context: *mut Context,
    _pointers: [Ptr; 5],
    _handle: u32,
    pub qp_num: u32,
}

/// The beginning of a completion channel.
#[repr(C)]
pub struct CompChannel {
    _context: *mut Context,
    pub fd: c_int,
}

#[repr(C)]
pub struct Mr {
    _pointers: [Ptr; 3],
    _length: usize,
    _handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

#[repr(C)]
pub struct RecvWr {
    pub wr_id: u64,
    pub next: *mut RecvWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
}

#[repr(C)]
pub struct SendWr {
    pub wr_id: u64,
    pub next: *mut SendWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
    pub opcode: u32,
    pub send_flags: u32,
    pub imm_data: u32,
    pub remote_addr: u64,
    pub rkey: u32,
    pub unused: [u32; 19],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Wc {
    pub wr_id: u64,
    pub status: u32,
    pub opcode: u32,
    pub vendor_err: u32,
    pub byte_len: u32,
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: u32,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

#[repr(C)]
pub struct QpInitAttr {
    pub qp_context: Ptr,
    pub send_cq: *mut Cq,
    pub recv_cq: *mut Cq,
    pub srq: *mut Srq,
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
    pub qp_type: u32,
    pub sq_sig_all: c_int,
}

/// Attributes of a queue pair, of which only one is ever changed here.
#[repr(C, align(8))]
pub struct QpAttr {
    _before: [u8; 128],
    pub min_rnr_timer: u8,
    _after: [u8; 15],
}

impl QpAttr {
    pub fn with_min_rnr_timer(code: u8) -> QpAttr {
        QpAttr { _before: [0; 128], min_rnr_timer: code, _after: [0; 15] }
    }
}

#[repr(C)]
pub struct SrqInitAttr {
    pub srq_context: Ptr,
    pub max_wr: u32,
    pub max_sge: u32,
    pub srq_limit: u32,
}

/// The beginning of a connection identifier.
#[repr(C)]
pub struct CmId {
    pub verbs: *mut Context,
    pub channel: *mut EventChannel,
    pub context: Ptr,
    pub qp: *mut Qp,
    _route: [u64; 39],
    _port_space: u32,
    pub port_num: u8,
}

#[repr(C)]
pub struct EventChannel {
    pub fd: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnParam {
    pub private_data: Ptr,
    pub private_data_len: u8,
    pub responder_resources: u8,
    pub initiator_depth: u8,
    pub flow_control: u8,
    pub retry_count: u8,
    pub rnr_retry_count: u8,
    pub srq: u8,
    pub qp_num: u32,
}

/// The beginning of an event: `conn` is what it has for connections.
#[repr(C)]
pub struct CmEvent {
    pub id: *mut CmId,
    pub listen_id: *mut CmId,
    pub event: u32,
    pub status: c_int,
    pub conn: ConnParam,
}

const _: () = assert!(size_of::<ContextOps>() == 256 && offset_of!(Context, ops) == 8);
const _: () = assert!(offset_of!(ContextOps, poll_cq) == 88 && offset_of!(ContextOps, req_notify_cq) == 96);
const _: () = assert!(offset_of!(ContextOps, post_srq_recv) == 160);
const _: () = assert!(offset_of!(ContextOps, post_send) == 200 && offset_of!(ContextOps, post_recv) == 208);
const _: () = assert!(offset_of!(DeviceHead, transport_type) == 20 && size_of::<DeviceAttr>() == 232);
const _: () = assert!(offset_of!(DeviceAttr, max_qp_rd_atom) == 144);
const _: () = assert!(offset_of!(DeviceAttr, max_qp_init_rd_atom) == 156);
const _: () = assert!(offset_of!(Qp, qp_num) == 52 && offset_of!(CompChannel, fd) == 8);
const _: () = assert!(offset_of!(Mr, lkey) == 36 && size_of::<Mr>() == 48);
const _: () = assert!(size_of::<SendWr>() == 128 && offset_of!(SendWr, remote_addr) == 40);
const _: () = assert!(size_of::<RecvWr>() == 32 && size_of::<Wc>() == 48);
const _: () = assert!(size_of::<QpAttr>() == 144 && offset_of!(QpAttr, min_rnr_timer) == 128);
const _: () = assert!(size_of::<QpInitAttr>() == 64 && size_of::<SrqInitAttr>() == 24);
const _: () = assert!(offset_of!(CmId, qp) == 24 && offset_of!(CmId, port_num) == 348);
const _: () = assert!(size_of::<ConnParam>() == 24 && offset_of!(CmEvent, conn) == 24);

pub const WC_SUCCESS: u32 = 0;
#[cfg(test)]
pub const WR_RDMA_WRITE: u32 = 0;
pub const WR_SEND: u32 = 2;
pub const WR_RDMA_READ: u32 = 4;
pub const SEND_SIGNALED: u32 = 2;
pub const SEND_INLINE: u32 = 8;
pub const QPT_RC: u32 = 2;
pub const ACCESS_LOCAL_WRITE: c_int = 1;
pub const ACCESS_REMOTE_WRITE: c_int = 2;
pub const ACCESS_REMOTE_READ: c_int = 4;
/// What a device speaks: InfiniBand, over its own network or RoCE.
pub const TRANSPORT_IB: c_int = 0;
pub const TRANSPORT_IWARP: c_int = 1;
/// As many reads at once as both sides can, where a connection is accepted.
pub const MAX_READS: u8 = 0xFF;
pub const PS_TCP: c_int = 0x0106;
/// Level and name of the option that sets the time-out for acknowledgements: 4.096 microseconds times two to its power.
pub const OPTION_ID: c_int = 0;
pub const OPTION_ID_ACK_TIMEOUT: c_int = 3;

macro_rules! library {
    ($($library:ident fn $name:ident($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// Functions of the libraries.
        pub struct Api { $(pub $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)* }

        impl Api {
            /// # Safety
            /// The libraries are libibverbs and librdmacm, and stay loaded.
            unsafe fn find(ibverbs: &Library, rdmacm: &Library) -> Result<Api, libloading::Error> {
                let libraries = Libraries { ibverbs, rdmacm };
                // SAFETY: the signatures are those of the libraries' headers.
                Ok(Api { $($name: unsafe { *libraries.$library.get(concat!(stringify!($name), "\0"))? },)* })
            }
        }
    };
}

struct Libraries<'a> {
    ibverbs: &'a Library,
    rdmacm: &'a Library,
}

library! {
    ibverbs fn ibv_alloc_pd(*mut Context) -> *mut Opaque;
    ibverbs fn ibv_reg_mr(*mut Opaque, *mut c_void, usize, c_int) -> *mut Mr;
    ibverbs fn ibv_dereg_mr(*mut Mr) -> c_int;
    ibverbs fn ibv_create_comp_channel(*mut Context) -> *mut CompChannel;
    ibverbs fn ibv_destroy_comp_channel(*mut CompChannel) -> c_int;
    ibverbs fn ibv_create_cq(*mut Context, c_int, *mut c_void, *mut CompChannel, c_int) -> *mut Cq;
    ibverbs fn ibv_destroy_cq(*mut Cq) -> c_int;
    ibverbs fn ibv_get_cq_event(*mut CompChannel, *mut *mut Cq, *mut *mut c_void) -> c_int;
    ibverbs fn ibv_ack_cq_events(*mut Cq, u32);
    ibverbs fn ibv_create_srq(*mut Opaque, *mut SrqInitAttr) -> *mut Srq;
    ibverbs fn ibv_destroy_srq(*mut Srq) -> c_int;
    ibverbs fn ibv_modify_qp(*mut Qp, *mut QpAttr, c_int) -> c_int;
    ibverbs fn ibv_get_device_name(*mut DeviceHead) -> *const c_char;
    ibverbs fn ibv_query_device(*mut Context, *mut DeviceAttr) -> c_int;
    ibverbs fn ibv_wc_status_str(u32) -> *const c_char;
    rdmacm fn rdma_get_devices(*mut c_int) -> *mut *mut Context;
    rdmacm fn rdma_create_event_channel() -> *mut EventChannel;
    rdmacm fn rdma_destroy_event_channel(*mut EventChannel);
    rdmacm fn rdma_create_id(*mut EventChannel, *mut *mut CmId, *mut c_void, c_int) -> c_int;
    rdmacm fn rdma_destroy_id(*mut CmId) -> c_int;
    rdmacm fn rdma_bind_addr(*mut CmId, *mut libc::sockaddr) -> c_int;
    rdmacm fn rdma_listen(*mut CmId, c_int) -> c_int;
    rdmacm fn rdma_get_src_port(*mut CmId) -> u16;
    rdmacm fn rdma_resolve_addr(*mut CmId, *mut libc::sockaddr, *mut libc::sockaddr, c_int) -> c_int;
    rdmacm fn rdma_resolve_route(*mut CmId, c_int) -> c_int;
    rdmacm fn rdma_create_qp(*mut CmId, *mut Opaque, *mut QpInitAttr) -> c_int;
    rdmacm fn rdma_destroy_qp(*mut CmId);
    rdmacm fn rdma_connect(*mut CmId, *mut ConnParam) -> c_int;
    rdmacm fn rdma_accept(*mut CmId, *mut ConnParam) -> c_int;
    rdmacm fn rdma_reject(*mut CmId, Ptr, u8) -> c_int;
    rdmacm fn rdma_get_cm_event(*mut EventChannel, *mut *mut CmEvent) -> c_int;
    rdmacm fn rdma_ack_cm_event(*mut CmEvent) -> c_int;
    rdmacm fn rdma_set_option(*mut CmId, c_int, c_int, *mut c_void, usize) -> c_int;
}

/// The libraries' functions; loaded at the first call. The error is for people.
pub fn api() -> Result<&'static Api, &'static str> {
    static API: OnceLock<Result<Api, String>> = OnceLock::new();
    API.get_or_init(|| load().map_err(|error| format!("no RDMA libraries on this node: {error}")))
        .as_ref()
        .map_err(String::as_str)
}

/// The process that loaded the libraries; 0 before.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Whether the libraries' objects are this process's. In a child that was forked they are its parent's: ending them would end them there.
pub fn is_owner() -> bool {
    OWNER.load(Ordering::Relaxed) == std::process::id()
}

fn load() -> Result<Api, String> {
    let open = |name: &str| {
        // SAFETY: the constructors of these libraries have no requirements; they are never unloaded.
        let opened = unsafe { Library::new(name) };
        opened.map(|library| &*Box::leak(Box::new(library))).map_err(|error| format!("{name}: {error}"))
    };
    OWNER.store(std::process::id(), Ordering::Relaxed);
    let (ibverbs, rdmacm) = (open("libibverbs.so.1")?, open("librdmacm.so.1")?);
    // SAFETY: they are what their names say, and leaked.
    unsafe { Api::find(ibverbs, rdmacm) }.map_err(|error| error.to_string())
}
