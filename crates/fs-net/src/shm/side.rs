//! The two ends of a session, and the two ways between them.

/// An end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client = 0,
    Server = 1,
}

/// The way from one end to the other, named by where it begins: its ring is filled there, and so is its arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way(Side);

impl Side {
    pub fn index(self) -> usize {
        self as usize
    }

    pub fn peer(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    /// The way that this end fills.
    pub fn outward(self) -> Way {
        Way(self)
    }

    /// The way that this end empties.
    pub fn inward(self) -> Way {
        Way(self.peer())
    }
}

impl Way {
    #[cfg(test)]
    pub const TO_SERVER: Way = Way(Side::Client);
    #[cfg(test)]
    pub const TO_CLIENT: Way = Way(Side::Server);

    #[cfg(test)]
    pub fn back(self) -> Way {
        Way(self.0.peer())
    }

    pub fn index(self) -> usize {
        self.0.index()
    }
}
