//! Fuzz targets for whatever reads a peer's bytes. Each is a plain function of bytes that panics where a property does not
//! hold; `docs/fuzzing.md` says which properties.
//!
//! Here live the targets, and how an input is taken apart. What invents inputs does not: the short run is a test of this
//! crate, the long run the engine in `src/bin`, started by `cargo xtask fuzz`. No target opens a socket, sleeps or asks
//! for anything but its input.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "a target reports a broken property by panicking"
)]

mod input;
mod targets;

/// One target.
#[derive(Debug)]
pub struct Target {
    /// Its name: that of its corpus and dictionary, too.
    pub name: &'static str,
    /// Runs it on one input; panics where a property does not hold.
    pub run: fn(&[u8]),
    /// The longest input that is invented for it, in bytes. What matters of it fits.
    pub max_len: usize,
    /// What of the product it is about, as in `docs/fuzzing.md`.
    pub about: &'static str,
    /// What it asserts, as in `docs/fuzzing.md`.
    pub holds: &'static str,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "first_bytes",
        run: targets::first_bytes::run,
        max_len: 96,
        about: "a handshake or beats: the first bytes on the init port",
        holds: "every cut of the bytes gives the answer of the definition; no byte is lost; only what may be both waits",
    },
    Target {
        name: "handshake_host",
        run: targets::handshake_host::run,
        max_len: 2048,
        about: "the bridge's handshake machine against a hostile enclave",
        holds: "every cut gives the course of the definition; one answer, one end, nothing after it; a deadline whenever the enclave is waited for, kept to the nanosecond; no environment in `Debug`",
    },
    Target {
        name: "handshake_enclave",
        run: targets::handshake_enclave::run,
        max_len: 1024,
        about: "the SDK's handshake machine against a hostile host",
        holds: "every cut gives the course of the definition; only the ACK and the own settings are written; a deadline whenever the host is waited for; what the host makes it say is bounded and on one line",
    },
    Target {
        name: "line_reader",
        run: targets::line_reader::run,
        max_len: 512,
        about: "the bounded line reader under all of them",
        holds: "every cut gives the same lines; never more than the cap held; nothing behind the newline taken; too long stays too long",
    },
    Target {
        name: "settings",
        run: targets::settings::run,
        max_len: 4096,
        about: "the settings object, and what is granted of it",
        holds: "only JSON, every field within its bound; read, written and read again the same; a refusal is one line and names the path; a grant has nothing that the operator does not allow",
    },
    Target {
        name: "environment",
        run: targets::environment::run,
        max_len: 2048,
        about: "the environment object at the SDK, and the announcement in it",
        holds: "exactly the JSON objects of texts without a name given twice; written and read again the same; no value in an error or in `Debug`",
    },
    Target {
        name: "beats",
        run: targets::beats::run,
        max_len: 256,
        about: "beats in exact frames, and the clock of a session",
        holds: "every cut counts the same, wrong at the first wrong byte and for ever; the clock is that of plain arithmetic",
    },
    Target {
        name: "nak",
        run: targets::nak::run,
        max_len: 400,
        about: "refusal lines, written and read",
        holds: "one line of 256 bytes at most without a control character, whatever sentence goes in; reads back",
    },
    Target {
        name: "target_line",
        run: targets::target_line::run,
        max_len: 400,
        about: "the address line of an egress stream",
        holds: "what is taken is what was written and reads back; an address is that of the standard library; a refusal repeats no piece of a URL",
    },
    Target {
        name: "policy_rules",
        run: targets::policy_rules::run,
        max_len: 400,
        about: "the text of egress rules, port lists and patterns of variables",
        holds: "one spelling, which reads back; denied and allowed is denied; ports and patterns mean what a plain definition says",
    },
    Target {
        name: "policy_targets",
        run: targets::policy_targets::run,
        max_len: 400,
        about: "any text as an egress target",
        holds: "allowing more closes nothing, denying more opens nothing; letter case and a last dot change nothing; what is resolved is a plain name that `inet_aton` takes for no address",
    },
    Target {
        name: "policy_addresses",
        run: targets::policy_addresses::run,
        max_len: 96,
        about: "closed addresses in every spelling and disguise",
        holds: "under the widest rules exactly the closed ones are refused, in every spelling, inside IPv6, and behind a name; what is dialled is the standard library's address",
    },
    Target {
        name: "log_lines",
        run: targets::log_lines::run,
        max_len: 1024,
        about: "an enclave's log as it is printed",
        holds: "every cut gives the same lines, within the cap, and what is cut is counted; no control character but a tab; printed text reads back; JSON is valid and has the line unchanged",
    },
    Target {
        name: "proxy_header",
        run: targets::proxy_header::run,
        max_len: 640,
        about: "the PROXY protocol v2 header",
        holds: "every cut gives the answer of the definition; not a byte behind the header is taken; written and read the same",
    },
    Target {
        name: "hybrid_line",
        run: targets::hybrid_line::run,
        max_len: 64,
        about: "the two lines of the hybrid transport",
        holds: "exactly the documented form is read; written and read the same",
    },
    Target {
        name: "records",
        run: targets::records::run,
        max_len: 1024,
        about: "the records of framed tunnels",
        holds: "every cut gives the payload, end or reset of the definition; written and read the same; cut short it is never an orderly end",
    },
];
