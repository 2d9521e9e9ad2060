//! Names: what is created, replaced, moved, exchanged and removed by all at once. A file is known by its content.

use fs_client::{Caller, Client, Error, InodeId, OpenFlags};
use porcupine_rs::{Model, Operation};
use rand::RngExt;

use crate::history::{self, Came, History};

/// Names of an object.
pub const NAMES: usize = 3;

/// What to do; names by their number.
#[derive(Debug, Clone)]
pub enum Call {
    Create(usize),
    Put(usize, u64),
    PutNew(usize, u64),
    Get(usize),
    LookUp(usize),
    Remove(usize),
    Rename(usize, usize),
    RenameNew(usize, usize),
    Exchange(usize, usize),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Content(u64),
    Errno(i32),
    /// None came.
    Lost,
}

/// A call on an object, and its answer.
#[derive(Debug, Clone)]
pub struct Op {
    object: usize,
    call: Call,
    answer: Answer,
}

impl history::Call for Op {
    fn lose_answer(&mut self) {
        self.answer = Answer::Lost;
    }
}

type State = [Option<u64>; NAMES];

/// Names to contents; an empty file's is 0.
#[derive(Debug, Clone)]
pub struct Names;

fn apply(names: &mut State, call: &Call) -> Answer {
    const NONE: Answer = Answer::Errno(libc::ENOENT);
    const EXISTS: Answer = Answer::Errno(libc::EEXIST);
    match *call {
        Call::Create(name) | Call::PutNew(name, _) if names[name].is_some() => return EXISTS,
        Call::Create(name) => names[name] = Some(0),
        Call::Put(name, value) | Call::PutNew(name, value) => names[name] = Some(value),
        Call::Get(name) => return names[name].map_or(NONE, Answer::Content),
        Call::LookUp(name) => return names[name].map_or(NONE, |_| Answer::Done),
        Call::Remove(name) => match names[name].take() {
            Some(_) => {}
            None => return NONE,
        },
        Call::Rename(from, _) | Call::RenameNew(from, _) if names[from].is_none() => return NONE,
        Call::RenameNew(_, to) if names[to].is_some() => return EXISTS,
        Call::Rename(from, to) | Call::RenameNew(from, to) => names[to] = names[from].take(),
        Call::Exchange(one, other) if names[one].is_none() || names[other].is_none() => return NONE,
        Call::Exchange(one, other) => names.swap(one, other),
    }
    Answer::Done
}

impl Model for Names {
    type State = State;
    type Op = Op;
    type Metadata = ();

    fn partition_operations(history: &[Operation<Self>]) -> Vec<Vec<Operation<Self>>> {
        crate::by_object(history, |op| op.object)
    }

    fn init() -> State {
        State::default()
    }

    fn step(state: &State, op: &Op) -> (bool, State) {
        let mut next = *state;
        let right = apply(&mut next, &op.call);
        (op.answer == Answer::Lost || op.answer == right, next)
    }
}

/// Directories of the objects.
pub struct Places {
    dirs: Vec<[InodeId; 2]>,
    /// The second name is in another directory than the others, which another server may own.
    apart: bool,
}

impl Places {
    /// Makes them.
    pub fn make(client: &Client, objects: usize, apart: bool) -> Places {
        let dir = |path: String| client.mkdir_path(path, 0o755).unwrap().ino;
        let dirs = (0..objects).map(|n| [dir(format!("/n{n}x{apart}")), dir(format!("/n{n}y{apart}"))]);
        Places { dirs: dirs.collect(), apart }
    }

    fn of(&self, object: usize, name: usize) -> (InodeId, &'static [u8]) {
        (self.dirs[object][if self.apart { name % 2 } else { 0 }], [&b"first"[..], b"second", b"third"][name])
    }
}

/// Contents are replaced only where all names are in one directory: of a file that was moved in from another server's it takes two messages,
/// and others may see it empty meanwhile (docs/semantics.md).
fn choose(value: u64, apart: bool) -> Call {
    let mut chance = rand::rng();
    let name = chance.random_range(0..NAMES);
    let other = (name + chance.random_range(1..NAMES)) % NAMES;
    match chance.random_range(0..14) {
        0 | 1 => Call::Create(name),
        2 | 3 if !apart => Call::Put(name, value),
        2..=4 => Call::PutNew(name, value),
        5..=7 => Call::Get(name),
        8 => Call::LookUp(name),
        9 => Call::Remove(name),
        10 | 11 => Call::Rename(name, other),
        12 => Call::RenameNew(name, other),
        _ => Call::Exchange(name, other),
    }
}

/// One call of a client, recorded. `value` is of this call only.
pub fn call(client: &Client, number: u32, places: &Places, history: &History<Names>, value: u64) {
    history.record(number, |object| {
        let call = choose(value, places.apart);
        let answer = match carry_out(client, places, object, &call) {
            Ok(answer) => answer,
            Err(error) => match error.errno() {
                errno @ (libc::ENOENT | libc::EEXIST) => Answer::Errno(errno),
                _ => Answer::Lost,
            },
        };
        let came = if answer == Answer::Lost { Came::Nothing } else { Came::Answer };
        (Op { object, call, answer }, came)
    });
}

fn carry_out(client: &Client, places: &Places, object: usize, call: &Call) -> Result<Answer, Error> {
    let who = &Caller::ROOT;
    let at = |name| places.of(object, name);
    let put = |name, value: u64, new| {
        let (dir, name) = at(name);
        client.put_at(who, dir, name, &value.to_le_bytes(), 0o644, new).map(drop)
    };
    let rename = |from, to, new, exchange| {
        let ((dir, name), (other, new_name)) = (at(from), at(to));
        client.rename(who, dir, name, other, new_name, new, exchange)
    };
    match *call {
        Call::Create(name) => {
            let (dir, name) = at(name);
            client.create_open(who, dir, name, 0o644, OpenFlags::WRITE, true)?.0.close()?;
        }
        Call::Put(name, value) => put(name, value, false)?,
        Call::PutNew(name, value) => put(name, value, true)?,
        Call::Get(name) => {
            let (dir, name) = at(name);
            let content = client.get_at(who, dir, name)?;
            // An empty file's content is 0.
            return Ok(Answer::Content(content.as_ref().try_into().map_or(0, u64::from_le_bytes)));
        }
        Call::LookUp(name) => {
            let (dir, name) = at(name);
            client.lookup(who, dir, name)?;
        }
        Call::Remove(name) => {
            let (dir, name) = at(name);
            client.unlink(who, dir, name)?;
        }
        Call::Rename(from, to) => rename(from, to, false, false)?,
        Call::RenameNew(from, to) => rename(from, to, true, false)?,
        Call::Exchange(one, other) => rename(one, other, false, true)?,
    }
    Ok(Answer::Done)
}
