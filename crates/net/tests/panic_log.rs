//! A program of its own: what the log shows is settled for a whole process when a line is first reached.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;

use std::sync::{Arc, Mutex};

use common::LONG;
use enclave_bridge_net::Scope;
use tokio::time::timeout;

/// Keeps the text of every event of this thread.
struct Log(Arc<Mutex<String>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields<'a>(&'a mut String);
        impl tracing::field::Visit for Fields<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut log = self.0.lock().unwrap();
        event.record(&mut Fields(&mut log));
        log.push('\n');
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_panic_is_logged_once_with_its_place_and_without_its_text() {
    let text = Arc::new(Mutex::new(String::new()));
    let guard = tracing::subscriber::set_default(Log(Arc::clone(&text)));
    let root = Scope::root("root");
    root.child("egress").spawn("stream", async { panic!("secret") });
    timeout(LONG, root.join()).await.unwrap();
    drop(guard);
    let text = text.lock().unwrap();
    assert_eq!(*text, "message=task panicked scope=\"egress\" task=\"stream\" \n");
}
