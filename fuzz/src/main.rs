//! One program for all fuzz targets: libFuzzer looks for inputs, `ROWTIDE_FUZZ_TARGET` names the target.
//!
//! `rowtide-fuzz` is run by `scripts/test fuzz`; docs/fuzzing.md says how to run it by hand.
#![no_main]

mod allocator;

use std::process::exit;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rowtide::fuzzing::Target;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: { TARGET.get_or_init(chosen); },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(data, &allocator::Held);
        }
    }
);

fn targets() -> impl Iterator<Item = &'static Target> {
    sources::fuzzing::TARGETS.iter().chain(rowtide::fuzzing::TARGETS)
}

fn chosen() -> Target {
    let name = std::env::var("ROWTIDE_FUZZ_TARGET").unwrap_or_default();
    if name == "list" {
        targets().for_each(|target| println!("{}", target.name));
        exit(0);
    }
    let Some(target) = targets().find(|target| target.name == name) else {
        eprintln!("ROWTIDE_FUZZ_TARGET names no target; `list` lists them");
        exit(2);
    };
    *target
}
