//! Regions that are registered once and then saved and restored together.

use crate::error::{Error, Result};
use crate::snapshot::Snapshot;
use crate::writer::Writer;

type Get<S> = Box<dyn Fn(&S) -> &[u8] + Send + Sync>;
type GetMut<S> = Box<dyn Fn(&mut S) -> &mut [u8] + Send + Sync>;

/// What of an application's state `S` belongs into a checkpoint: each region by its name, its offset there, and how to get at its
/// bytes.
///
/// ```
/// struct Plate { step: [u8; 8], degrees: Vec<u8> }
/// let mut protected = libio::Protected::new();
/// protected.add("step", 0, |plate: &Plate| &plate.step, |plate| &mut plate.step);
/// protected.add("degrees", 0, |plate: &Plate| &plate.degrees, |plate| &mut plate.degrees);
/// assert_eq!(protected.bytes(&Plate { step: [0; 8], degrees: vec![0; 100] }), 108);
/// ```
pub struct Protected<S> {
    regions: Vec<Region<S>>,
}

struct Region<S> {
    name: String,
    offset: u64,
    get: Get<S>,
    get_mut: GetMut<S>,
}

impl<S> Protected<S> {
    /// Nothing yet.
    pub fn new() -> Protected<S> {
        Protected { regions: Vec::new() }
    }

    /// Registers bytes that lie at byte `offset` of region `name`.
    pub fn add(
        &mut self,
        name: &str,
        offset: u64,
        get: impl Fn(&S) -> &[u8] + Send + Sync + 'static,
        get_mut: impl Fn(&mut S) -> &mut [u8] + Send + Sync + 'static,
    ) {
        let (get, get_mut) = (Box::new(get), Box::new(get_mut));
        self.regions.push(Region { name: name.to_owned(), offset, get, get_mut });
    }

    /// Bytes of all of them.
    pub fn bytes(&self, state: &S) -> u64 {
        self.regions.iter().map(|region| (region.get)(state).len() as u64).sum()
    }

    /// Writes all of them. The state may be changed when this returns.
    pub fn save(&self, writer: &mut Writer, state: &S) -> Result<()> {
        self.regions
            .iter()
            .try_for_each(|region| writer.write(&region.name, (region.get)(state), region.offset))
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a region of the version is shorter than the state has room for; what was read is then of no use.
    pub fn restore(&self, snapshot: &Snapshot, state: &mut S) -> Result<()> {
        for region in &self.regions {
            let buf = (region.get_mut)(state);
            let read = snapshot.read(&region.name, region.offset, buf)?;
            if read < buf.len() {
                return Err(Error::Invalid(format!(
                    "region {:?} of version {} has {read} bytes from {}, not {}: it was saved with another shape",
                    region.name,
                    snapshot.version(),
                    region.offset,
                    buf.len()
                )));
            }
        }
        Ok(())
    }
}

impl<S> Default for Protected<S> {
    fn default() -> Protected<S> {
        Protected::new()
    }
}
