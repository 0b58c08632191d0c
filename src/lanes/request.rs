//! One request's bytes and what each range of them is.
//!
//! ```text
//!   body: │{"index"…}\n{…}\n│{"delete"…}\n│{"index"…}\n{…}\n│      one allocation, shared
//!   items:  0 ─────────────   1 ──────────  2 ─────────────         ranges of it
//! ```
//! The body is built once; the entries' own buffers end as they are copied. What has to go out
//! again goes out from these bytes: whole, halved (a slice), or only the failed ranges (a copy).

use bytes::Bytes;
use sources::position::Version;

use super::pending::{Carried, Entry};
use super::{Dead, Kind};
use crate::ledger::SegmentId;

/// One action of a request.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) hash: u64,
    pub(super) index: u32,
    pub(super) version: Version,
    pub(super) segment: SegmentId,
    pub(super) charge: usize,
    pub(super) carried: Carried,
    /// The range of the whole body.
    start: u32,
    end: u32,
    /// Where its id stands, from `start`.
    id_at: u32,
    id_len: u32,
}

/// A request, or what is left of one.
#[derive(Debug)]
pub(super) struct Request {
    body: Bytes,
    /// Where `body` begins in what the ranges count from.
    base: u32,
    pub(super) items: Vec<InFlight>,
    /// Failed tries in a row, for the backoff.
    pub(super) tries: u32,
    /// Tries on which the socket was closed, since it was last split.
    pub(super) lost: u32,
    /// Under what its lost tries are remembered.
    pub(super) taint: Option<u64>,
}

/// A change that was never to be sent.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) entry: Entry,
    pub(super) dead: Dead,
}

impl Request {
    /// Builds a request; the entries' own buffers are freed one by one.
    pub(super) fn build(entries: &mut Vec<Entry>) -> Self {
        let bytes = entries.iter().map(|entry| entry.action.data.len()).sum();
        // A single one, perhaps of the largest, goes as it is: it is never held twice.
        let is_alone = entries.len() == 1;
        let mut body = Vec::with_capacity(if is_alone { 0 } else { bytes });
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries.drain(..) {
            let charge = entry.charge();
            let Entry { hash, action, carried, .. } = entry;
            let start = body.len() as u32;
            match is_alone {
                true => body = action.data.into_vec(),
                false => body.extend_from_slice(&action.data),
            }
            items.push(InFlight {
                hash,
                index: action.index,
                version: action.version,
                segment: action.segment,
                charge,
                carried,
                start,
                end: body.len() as u32,
                id_at: action.id_at,
                id_len: action.id_len,
            });
        }
        Self { body: body.into(), base: 0, items, tries: 0, lost: 0, taint: None }
    }

    /// The bytes to send; shared.
    pub(super) fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// The id of an item, as it stands in the action.
    pub(super) fn id(&self, item: &InFlight) -> &[u8] {
        let start = (item.start - self.base + item.id_at) as usize;
        self.body.get(start..start + item.id_len as usize).unwrap_or_default()
    }

    /// The bytes of an item, shared.
    pub(super) fn bytes(&self, item: &InFlight) -> Bytes {
        self.body.slice((item.start - self.base) as usize..(item.end - self.base) as usize)
    }

    /// Two halves over the same bytes; `None` when there is only one item.
    pub(super) fn halve(mut self) -> Result<(Self, Self), Self> {
        if self.items.len() < 2 {
            return Err(self);
        }
        let second_items = self.items.split_off(self.items.len() / 2);
        let cut = second_items.first().map_or(self.base, |item| item.start);
        let second_body = self.body.split_off((cut - self.base) as usize);
        let (tries, taint) = (self.tries, self.taint);
        let second = Self { body: second_body, base: cut, items: second_items, tries, lost: 0, taint };
        self.lost = 0;
        Ok((self, second))
    }

    /// What is left when only `items` have to go out again. The old bytes end when every other
    /// request over them has.
    pub(super) fn again(self, mut items: Vec<InFlight>, all_failed: bool) -> Self {
        let tries = self.tries + 1;
        if all_failed {
            return Self { items, tries, lost: 0, ..self };
        }
        let bytes = items.iter().map(|item| (item.end - item.start) as usize).sum();
        let mut body = Vec::with_capacity(bytes);
        for item in &mut items {
            let start = body.len() as u32;
            let range = (item.start - self.base) as usize..(item.end - self.base) as usize;
            body.extend_from_slice(self.body.get(range).unwrap_or_default());
            (item.start, item.end) = (start, body.len() as u32);
        }
        // Something was done: the target is there, the backoff begins anew.
        Self { body: body.into(), base: 0, items, tries: 1, lost: 0, taint: self.taint }
    }
}

impl Entry {
    /// Takes a change that is never sent apart; `Err` gives one that is back.
    pub(super) fn into_refused(mut self) -> Result<Refused, Self> {
        match std::mem::replace(&mut self.action.kind, Kind::Delete) {
            Kind::Dead(dead) => Ok(Refused { entry: self, dead: *dead }),
            kind => {
                self.action.kind = kind;
                Err(self)
            }
        }
    }
}
