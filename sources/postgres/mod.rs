//! PostgreSQL.
use crate::source::Source;
use crate::world::SharedWorld;
use crate::{Problem, Settings};

pub(crate) fn make(_settings: Settings, _world: SharedWorld) -> Result<Box<dyn Source>, Vec<Problem>> {
    Err(Vec::new())
}
