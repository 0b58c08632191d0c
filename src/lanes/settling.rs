//! How items end: the dead letter first, then the news for the ledger.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Event;
use super::pending::Carried;
use super::request::{InFlight, Request};
use sources::mutant::{Rule, is_left_out};

use crate::dead_letters::{DeadLetter, DeadLetters};
use crate::ledger::{Ends, SegmentId};
use crate::retry::Halt;

/// How an item that was sent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Written,
    Stale,
    DeadLettered,
}

/// What one answer settled, by segment.
#[derive(Debug, Default)]
pub(super) struct Settling(Vec<(SegmentId, Ends)>);

impl Settling {
    /// An item has ended, and with it everything that it superseded.
    pub(super) fn add(&mut self, segment: SegmentId, end: End, carried: &Carried) {
        let ends = self.of(segment);
        match end {
            End::Written => ends.written += 1,
            End::Stale => ends.stale += 1,
            End::DeadLettered => ends.dead_lettered += 1,
        }
        if is_left_out(Rule::SupersededAreCounted) {
            return;
        }
        for (segment, count) in carried {
            self.of(*segment).superseded += count;
        }
    }

    fn of(&mut self, segment: SegmentId) -> &mut Ends {
        // Items of one segment stand together, so the last one is nearly always the same.
        if self.0.last().is_none_or(|(last, _)| *last != segment) {
            self.0.push((segment, Ends::default()));
        }
        let last = self.0.len() - 1;
        &mut self.0[last].1
    }

    /// Tells the pipeline, in one message.
    pub(super) fn tell(mut self, events: &mpsc::UnboundedSender<Event>) {
        if self.0.is_empty() {
            return;
        }
        self.0.sort_by_key(|(segment, _)| *segment);
        self.0.dedup_by(|second, first| {
            let same = second.0 == first.0;
            if same {
                first.1.add(&second.1);
            }
            same
        });
        let _nobody_listens_after_the_end = events.send(Event::Settled(self.0));
    }
}

/// The target will never take the item: its letter is durable before that is told.
pub(super) async fn bury(
    letters: &dyn DeadLetters,
    index: &Arc<str>,
    request: &Request,
    item: &InFlight,
    reason: String,
) -> Result<End, Halt> {
    let body = request.bytes(item);
    let letter = DeadLetter {
        index: index.clone(),
        id: request.id(item).into(),
        version: item.version,
        reason,
        bytes: body.len() as u64,
        body: Some(body),
    };
    if !is_left_out(Rule::LettersAreKept) {
        letters.keep(letter).await.map_err(Halt::from)?;
    }
    Ok(End::DeadLettered)
}
