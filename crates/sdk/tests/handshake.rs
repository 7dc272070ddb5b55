//! The handshake against bridges of both versions, written by hand from the wire's description.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test ends by panicking, and holds each future once"
)]

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::{ACK, Place, V1, V1_1, asked, beating, granted, no_tasks, soon};
use enclave_bridge_sdk::{Bridge, Error, Feature, NakCode, Scope, Session};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn plain(place: &Place) -> Result<Session, Error> {
    Bridge::connect(place.options()).await?.start().await
}

#[tokio::test]
async fn a_version_1_bridge_sees_version_1_and_nothing_else() {
    let place = Place::new();
    let init = place.host(5000);
    let enclave = async {
        let mut bridge = Bridge::connect(place.options()).await.unwrap();
        assert_eq!(bridge.environment().get("PLANET"), Some("earth"));
        assert!(!bridge.offers(Feature::ProxyV2));
        let refused = bridge.server(5009, 8089).proxy_v2().listen();
        assert!(matches!(refused, Err(Error::NotOffered { port: 5009, feature: Feature::ProxyV2 })), "{refused:?}");
        let refused = bridge.server(5009, 8089).bind_address(Ipv4Addr::LOCALHOST.into()).listen();
        assert!(matches!(refused, Err(Error::NotOffered { feature: Feature::Bind, .. })), "{refused:?}");
        let listener = bridge.server(5001, 8080).listen().unwrap();
        let twice = bridge.server(5001, 8081).listen();
        assert!(matches!(twice, Err(Error::PortTaken(_))), "{twice:?}");
        let _dialer = bridge.client(5002);
        (bridge.start().await.unwrap(), listener)
    };
    let host = async {
        let (mut stream, settings) = asked(&init, V1).await;
        let expected = json!({
            "appName": "test",
            "watchdog": {"enclaveId": settings["watchdog"]["enclaveId"], "interval": 2_000_000_000_u64},
            "logger": {"level": ""},
            "servers": [{"enclaveCid": 3, "enclaveListenPort": 5001, "bridgeTcpPort": 8080}],
            "clients": [{"enclaveDialPort": 5002, "requestTimeout": 300_000_000_000_u64}],
        });
        assert_eq!(settings, expected);
        stream.write_all(&ACK).await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::io::copy(&mut stream, &mut rest).await.unwrap();
        assert_eq!(read, 0, "nothing follows the settings");
        let id = common::id(&settings);
        assert!(!id.contains(&0x0A));
        // The enclave beats by itself, and lives on the beats of a bridge that sends one every half interval.
        let mut beats = beating(&init, id).await;
        for _ in 0..3 {
            beats.write_all(&common::beat(id)).await.unwrap();
            let mut next = [0; 17];
            beats.read_exact(&mut next).await.unwrap();
            assert_eq!(next, common::beat(id));
        }
    };
    let ((session, _listener), ()) = soon(async { tokio::join!(enclave, host) }).await;
    assert!(session.ready().await.is_ok());
}

#[tokio::test]
async fn what_a_1_1_bridge_offers_is_asked_for() {
    let place = Place::new();
    let init = place.host(5000);
    let enclave = async {
        let mut bridge = Bridge::connect(place.options()).await.unwrap();
        let address = Ipv4Addr::LOCALHOST.into();
        let listener = bridge.server(5001, 8080).proxy_v2().bind_address(address).listen().unwrap();
        (bridge.start().await.unwrap(), listener)
    };
    let host = async {
        let (mut stream, settings) = asked(&init, V1_1).await;
        stream.write_all(&ACK).await.unwrap();
        settings
    };
    let (_, settings) = soon(async { tokio::join!(enclave, host) }).await;
    assert_eq!(settings["protocol"], "1.1");
    let expected: Value = json!([{"enclaveCid": 3, "enclaveListenPort": 5001, "bridgeTcpPort": 8080,
        "proxyProtocol": "v2", "bindAddress": "127.0.0.1"}]);
    assert_eq!(settings["servers"], expected);
}

#[tokio::test]
async fn a_refusal_is_returned_with_its_code_and_sentence() {
    for (answer, code, shown) in [
        (
            &b"\x15PORT_IN_USE tcp 8080: taken\n"[..],
            Some(NakCode::PortInUse),
            "handshake: PORT_IN_USE: tcp 8080: taken",
        ),
        (b"\x15NO_TIME later\n", None, "handshake: NO_TIME: later"),
        (b"no\n", None, "neither ACK nor refusal"),
    ] {
        let place = Place::new();
        let init = place.host(5000);
        let host = async {
            let (mut stream, _) = asked(&init, V1_1).await;
            stream.write_all(answer).await.unwrap();
            stream
        };
        let (result, _stream) = soon(async { tokio::join!(plain(&place), host) }).await;
        let error = result.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(shown), "{error}");
    }
}

#[tokio::test]
async fn a_bridge_that_takes_no_enclave_says_so_in_place_of_the_environment() {
    let place = Place::new();
    let init = place.host(5000);
    let host = async {
        let (mut stream, _) = init.accept().await.unwrap();
        stream.write_all(b"\x15BUSY no free session\n").await.unwrap();
        stream
    };
    let (result, _stream) = soon(async { tokio::join!(Bridge::connect(place.options()), host) }).await;
    assert_eq!(result.unwrap_err().code(), Some(NakCode::Busy));
}

#[tokio::test]
async fn h17_a_hostile_environment_is_a_typed_error_without_its_values() {
    let oversized = format!("{{\"A\":\"{}\"}}", "s3cret".repeat(200_000));
    for environment in [
        "s3cret",
        "",
        "[\"s3cret\"]",
        r#"{"A":"s3cret","A":"2"}"#,
        r#"{"A":3}"#,
        r#"{"A":"s3cret""#,
        r#"{"A":{"B":"s3cret"}}"#,
        &"[".repeat(100_000),
        &oversized,
    ] {
        let place = Place::new();
        let init = place.host(5000);
        let host = async {
            let (mut stream, _) = init.accept().await.unwrap();
            // A peer that has had enough closes; that is what is wanted.
            drop(stream.write_all(format!("{environment}\n").as_bytes()).await);
            stream
        };
        let (result, _stream) = soon(async { tokio::join!(Bridge::connect(place.options()), host) }).await;
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Environment(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn h13_a_bridge_that_is_gone_between_settings_and_ack_fifty_times_is_waited_for() {
    for environment in [V1, V1_1] {
        let place = Place::new();
        let host = async {
            for _ in 0..50 {
                let init = place.host(5000);
                drop(asked(&init, environment).await);
            }
            let init = place.host(5000);
            let id = granted(&init, environment).await;
            (beating(&init, id).await, init)
        };
        let (session, _host) = tokio::join!(plain(&place), host);
        session.unwrap().ready().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn w9_a_bridge_that_accepts_and_closes_sees_one_connection_a_second() {
    let place = Place::new();
    let init = place.host(5000);
    let mut accepted = 0;
    let host = async {
        loop {
            drop(init.accept().await.unwrap());
            accepted += 1;
        }
    };
    tokio::select! {
        _ = Bridge::connect(place.options()) => panic!("there is no environment"),
        () = host => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    // Eight in the first moments, then one a second.
    assert!((50..=70).contains(&accepted), "{accepted}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_does_not_hold_up_the_start_for_ever() {
    let place = Place::new();
    let init = place.host(5000);
    let host = async {
        let silent = init.accept().await.unwrap();
        let id = granted(&init, V1).await;
        (silent, id)
    };
    let (session, _) = tokio::join!(plain(&place), host);
    assert!(session.is_ok());
}

#[tokio::test]
async fn settings_may_be_sent_long_after_the_environment() {
    let place = Place::new();
    let init = place.host(5000);
    let host = async {
        let (mut first, _) = init.accept().await.unwrap();
        first.write_all(format!("{V1}\n").as_bytes()).await.unwrap();
        // The host's patience is over before the program has decided.
        drop(first);
        granted(&init, V1).await
    };
    let enclave = async { Bridge::connect(place.options()).await.unwrap().start().await };
    let (session, _) = soon(async { tokio::join!(enclave, host) }).await;
    assert!(session.is_ok());
}

#[tokio::test]
async fn h14_dropping_the_start_anywhere_leaves_no_task() {
    let place = Place::new();
    let root = Scope::root("test");
    let options = || place.options().scope(&root);
    let never = Duration::from_millis(50);

    // Nobody listens.
    assert!(tokio::time::timeout(never, Bridge::connect(options())).await.is_err());
    no_tasks(&root).await;

    // The environment does not come.
    let init = place.host(5000);
    assert!(tokio::time::timeout(never, Bridge::connect(options())).await.is_err());
    drop(init.accept().await.unwrap());
    no_tasks(&root).await;

    // The answer does not come; a listener is there.
    let (bridge, held) = soon(async {
        let host = async {
            let (mut stream, _) = init.accept().await.unwrap();
            stream.write_all(format!("{V1}\n").as_bytes()).await.unwrap();
            stream
        };
        tokio::join!(Bridge::connect(options()), host)
    })
    .await;
    let mut bridge = bridge.unwrap();
    let mut listener = bridge.server(5001, 8080).listen().unwrap();
    assert!(root.tasks() > 0, "the hybrid socket is served");
    assert!(tokio::time::timeout(never, bridge.start()).await.is_err());
    no_tasks(&root).await;
    assert!(matches!(listener.accept().await, Err(Error::Closed)));
    drop(held);

    // A session that is dropped, and one that is shut down.
    for shut_down in [false, true] {
        let started = async { Bridge::connect(options()).await.unwrap().start().await.unwrap() };
        let (session, _) = soon(async { tokio::join!(started, granted(&init, V1)) }).await;
        let closed = session.closed();
        assert!(root.tasks() > 0);
        if shut_down {
            soon(session.shutdown()).await;
            assert_eq!(root.tasks(), 0);
        } else {
            drop(session);
        }
        soon(closed).await;
        no_tasks(&root).await;
        // The beats that were on their way.
        while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(20), init.accept()).await {}
    }
}

/// A future that is given up after so many polls.
struct Polls<F> {
    inner: std::pin::Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for Polls<F> {
    /// Nothing where it was given up.
    type Output = Option<F::Output>;

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let Some(left) = self.left.checked_sub(1) else { return std::task::Poll::Ready(None) };
        self.left = left;
        let polled = self.inner.as_mut().poll(context).map(Some);
        if polled.is_pending() && self.left == 0 {
            return std::task::Poll::Ready(None);
        }
        polled
    }
}

#[tokio::test]
async fn h14_the_start_given_up_after_every_poll_leaves_no_task() {
    let root = Scope::root("test");
    let mut polls = 1;
    loop {
        let place = Place::new();
        let init = place.host(5000);
        // A byte of the environment at a time, so that the start waits in many places.
        let host = async {
            loop {
                let (mut stream, _) = init.accept().await.unwrap();
                for byte in format!("{V1}\n").bytes() {
                    drop(stream.write_all(&[byte]).await);
                    tokio::task::yield_now().await;
                }
                let mut settings = [0; 4096];
                if matches!(stream.read(&mut settings).await, Ok(read) if read > 0) {
                    for byte in ACK {
                        drop(stream.write_all(&[byte]).await);
                        tokio::task::yield_now().await;
                    }
                }
                drop(stream.read(&mut settings).await);
            }
        };
        let start = async {
            let mut bridge = Bridge::connect(place.options().scope(&root)).await?;
            let listener = bridge.server(5001, 8080).listen()?;
            Ok::<_, Error>((bridge.start().await?, listener))
        };
        let given_up = async {
            // Time to be given up in is no more than what a poll takes.
            Polls { inner: Box::pin(start), left: polls }.await
        };
        let done = soon(async {
            tokio::select! {
                done = given_up => done,
                () = host => None,
            }
        })
        .await;
        let finished = done.is_some();
        if let Some(started) = done {
            drop(started.unwrap());
        }
        no_tasks(&root).await;
        if finished {
            break;
        }
        polls += 1;
    }
    assert!(polls > 10, "the start took {polls} polls only");
}
