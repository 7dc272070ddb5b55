//! The coverage-guided engine of long runs around the target that `FUZZ_TARGET` names. `cargo xtask fuzz` builds and runs it.
#![no_main]

use std::sync::OnceLock;

use enclave_bridge_fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<&Target> = OnceLock::new();

fn chosen() -> &'static Target {
    CHOSEN.get_or_init(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "the engine reads the arguments itself; this is the one way past it"
        )]
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|target| target.name == name);
        assert!(found.is_some(), "FUZZ_TARGET={name}: no such target");
        found.unwrap_or(&TARGETS[0])
    })
}

libfuzzer_sys::fuzz_target!(init: { chosen(); }, |bytes: &[u8]| {
    (chosen().run)(bytes);
});
