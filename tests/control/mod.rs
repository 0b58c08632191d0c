//! A process as those who run it see it: several pipelines in it, and what can be said to them.

mod several;
