//! What threads of the bridge share, tried in every order of their steps by loom. The modules are the product's own files,
//! compiled against loom's types; what they take from `crate::sync` there is from [`sync`] here. Nothing else lives here.

#![forbid(unsafe_code)]
// Built for tests it would bring those of the borrowed files, which are run where they belong.
#![cfg(not(test))]

pub mod metrics;
pub mod models;
pub mod sync;

#[allow(dead_code, missing_docs, unreachable_pub, reason = "the product's own file, of which a model uses a part")]
#[path = "../../crates/bridge/src/logs/blocks.rs"]
mod blocks;

#[allow(dead_code, missing_docs, unreachable_pub, reason = "the product's own file, of which a model uses a part")]
#[path = "../../crates/bridge/src/logs/queue.rs"]
mod queue;

#[allow(dead_code, missing_docs, unreachable_pub, reason = "the product's own file, of which a model uses a part")]
#[path = "../../crates/bridge/src/quiet.rs"]
mod quiet;

#[allow(dead_code, missing_docs, unreachable_pub, reason = "the product's own file, of which a model uses a part")]
#[path = "../../crates/bridge/src/streams.rs"]
mod streams;

#[allow(dead_code, missing_docs, unreachable_pub, reason = "the product's own file, of which a model uses a part")]
#[path = "../../crates/net/src/scope/tasks.rs"]
mod tasks;
