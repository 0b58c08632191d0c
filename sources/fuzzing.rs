//! The decoders as functions of bytes, for the fuzz targets in `fuzz/` (see docs/fuzzing.md).
//!
//! ```text
//!   bytes ─► Target::run ─► decoder, measured ─► checks of what came out (a failed one panics)
//! ```
//! Built for tests, which replay the committed corpus, and with the feature `fuzzing`. Nothing else
//! may use it.
// A finding is told by a panic: that is what the engine and the tests look for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub use crate::postgres::fuzzing::TARGETS;

/// A decoder and what is checked of it.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and its corpus's: `fuzz/corpus/NAME`.
    pub name: &'static str,
    /// Decodes and checks; panics when a check fails.
    pub run: fn(&[u8], &dyn Meter),
}

/// Watches what is allocated.
pub trait Meter {
    /// Counts from here.
    fn begin(&self);
    /// Panics if more than `most` bytes were held at once since [`Meter::begin`].
    fn end(&self, most: usize);
}

/// Counts nothing: for tests, whose allocator is the system's.
pub struct Unmeasured;

impl Meter for Unmeasured {
    fn begin(&self) {}
    fn end(&self, _most: usize) {}
}

/// Runs `work`, which may hold at most `most` bytes more than before.
pub fn measured<T>(meter: &dyn Meter, most: usize, work: impl FnOnce() -> T) -> T {
    meter.begin();
    let done = work();
    meter.end(most);
    done
}

/// Whether `text` is JSON, as deep as serde_json looks (128 levels).
pub fn is_json(text: &[u8]) -> bool {
    match serde_json::from_slice::<serde::de::IgnoredAny>(text) {
        Ok(_) => true,
        Err(error) => error.to_string().contains("recursion limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that every test run tries every input that ever failed; the application's are replayed by
    /// `scripts/test fuzz`.
    #[test]
    fn the_corpus_is_survived() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for target in TARGETS {
            let mut files = 0;
            for entry in std::fs::read_dir(corpus.join(target.name)).unwrap() {
                let path = entry.unwrap().path();
                let bytes = std::fs::read(&path).unwrap();
                let ran = std::panic::catch_unwind(|| (target.run)(&bytes, &Unmeasured));
                assert!(ran.is_ok(), "{} fails", path.display());
                files += 1;
            }
            assert!(files > 0, "{} has no corpus", target.name);
        }
    }
}
