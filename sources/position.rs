//! Positions, offsets and versions: where a source has got to, and what that makes of a record.
//!
//! A [`Position`] is the source's own and sealed: outside the source it is stored, shown and handed
//! back, never parsed or compared. An [`Offset`] is a pure function of a place in the source's
//! stream; a [`Version`] is `base + offset` (law 1), computed in one place, [`Epoch::version`].

use serde::{Serialize, de::DeserializeOwned};

/// Offsets and versions stay below 2^53, so that every JSON client reads them exactly.
pub const LIMIT: u64 = 1 << 53;

/// A place in a source's stream as a number below 2^53 that never falls while the stream goes on.
/// PostgreSQL: the commit record's LSN of the transaction that is being passed, else the last
/// end LSN passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// `None` when `place` does not fit below 2^53; the source halts then.
    pub fn new(place: u64) -> Option<Self> {
        (place < LIMIT).then_some(Self(place))
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The version a document is written with (`version_type=external_gte`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// For tests and for versions read back from a target.
    pub fn from_target(version: u64) -> Self {
        Self(version)
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What turns offsets into versions while one identity lasts. `base` has either sign, so that
/// switching back and forth between domains never exhausts the 53 bits (ATTACKS B2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Added to each offset.
    pub base: i64,
}

impl Epoch {
    /// The epoch of a new identity whose first offset is `first`, above every version that an
    /// earlier one can have issued: `ceiling + 1 − first`.
    pub fn after(ceiling: u64, first: Offset) -> Self {
        Self { base: ceiling as i64 + 1 - first.get() as i64 }
    }

    /// The one function from a place to a version. `None` when it leaves `1..2^53`.
    pub fn version(self, offset: Offset) -> Option<Version> {
        let version = (offset.get() as i64).checked_add(self.base)?;
        (version > 0 && (version as u64) < LIMIT).then_some(Version(version as u64))
    }
}

/// Where a source resumes, sealed: JSON text that only the source that made it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(Box<str>);

impl Position {
    /// Seals a source's own position.
    pub fn seal<T: Serialize>(own: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_string(own).map(|text| Self(text.into_boxed_str()))
    }

    /// Opens it again; only for the source that sealed it.
    pub fn open<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// For the store: the text as it is kept.
    pub fn as_text(&self) -> &str {
        &self.0
    }

    /// For the store: the text as it was kept.
    pub fn from_text(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn versions_never_fall_when_offsets_do_not(base in -(1_i64 << 52)..(1_i64 << 52), a in 0..LIMIT, b in 0..LIMIT) {
            let (low, high) = (Offset(a.min(b)), Offset(a.max(b)));
            let epoch = Epoch { base };
            if let (Some(first), Some(second)) = (epoch.version(low), epoch.version(high)) {
                prop_assert!(first <= second);
                prop_assert_eq!(second.get() - first.get(), high.get() - low.get());
            }
        }

        #[test]
        fn a_new_identity_starts_above_every_version_issued(ceiling in 0..(1_u64 << 52), first in 0..(1_u64 << 52), later in 0..(1_u64 << 20)) {
            let epoch = Epoch::after(ceiling, Offset(first));
            let version = epoch.version(Offset(first + later)).unwrap();
            prop_assert_eq!(version.get(), ceiling + 1 + later);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(Offset::new(LIMIT), None);
        assert_eq!(Epoch { base: 0 }.version(Offset(0)), None);
        assert_eq!(Epoch { base: 2 }.version(Offset(LIMIT - 1)), None);
    }
}
