//! Beats both ways, their loss, and the session that is set up again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test ends by panicking, and holds each future once"
)]

mod common;

use std::time::Duration;

use common::{Place, V1, V1_1, asked, beat, beating, granted, soon};
use enclave_bridge_sdk::{Bridge, NakCode, Session, SessionState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

/// A session, its id and its connection of beats.
async fn session(place: &Place, init: &UnixListener) -> (Session, [u8; 16], UnixStream) {
    let enclave = async { Bridge::connect(place.options()).await.unwrap().start().await.unwrap() };
    let host = async {
        let id = granted(init, V1_1).await;
        (id, beating(init, id).await)
    };
    let (session, (id, beats)) = soon(async { tokio::join!(enclave, host) }).await;
    (session, id, beats)
}

async fn until(session: &Session, wanted: impl Fn(&SessionState) -> bool) {
    let mut state = session.state();
    state.wait_for(wanted).await.unwrap();
}

fn reconnecting(state: &SessionState) -> bool {
    matches!(state, SessionState::Reconnecting { .. })
}

#[tokio::test(start_paused = true)]
async fn a_silent_bridge_is_lost_after_one_and_a_half_intervals_and_not_before() {
    let place = Place::new();
    let init = place.host(5000);
    let (session, id, mut beats) = session(&place, &init).await;
    let start = Instant::now();
    // Two beats that come in pieces, the second one late but in time.
    beats.write_all(&beat(id)[..5]).await.unwrap();
    beats.write_all(&beat(id)[5..]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2900)).await;
    assert!(matches!(*session.state().borrow(), SessionState::Ready));
    beats.write_all(&beat(id)).await.unwrap();
    until(&session, reconnecting).await;
    let lost_after = start.elapsed();
    assert!((Duration::from_millis(5800)..=Duration::from_millis(6000)).contains(&lost_after), "{lost_after:?}");
    // The same is asked for again, with another id.
    let new = granted(&init, V1_1).await;
    assert_ne!(new, id);
    let _beats = beating(&init, new).await;
    session.ready().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_enclave_beats_three_times_an_interval() {
    let place = Place::new();
    let init = place.host(5000);
    let (_session, id, mut beats) = session(&place, &init).await;
    let start = Instant::now();
    for _ in 0..30 {
        let mut next = [0; 17];
        beats.read_exact(&mut next).await.unwrap();
        assert_eq!(next, beat(id));
        beats.write_all(&next).await.unwrap();
    }
    let took = start.elapsed();
    assert!((Duration::from_millis(19_500)..=Duration::from_millis(20_500)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_broken_connection_of_beats_is_made_again_without_a_handshake() {
    let place = Place::new();
    let init = place.host(5000);
    let (session, id, mut beats) = session(&place, &init).await;
    beats.write_all(&beat(id)).await.unwrap();
    let mut second = [0; 17];
    soon(beats.read_exact(&mut second)).await.unwrap();
    drop(beats);
    let again = soon(beating(&init, id)).await;
    assert!(matches!(*session.state().borrow(), SessionState::Ready));
    // A bridge that does not know the session closes at once: the handshake follows.
    drop(again);
    let id = soon(granted(&init, V1_1)).await;
    let _beats = soon(beating(&init, id)).await;
}

#[tokio::test]
async fn w3_a_wrong_beat_closes_that_connection() {
    let place = Place::new();
    let init = place.host(5000);
    let (_session, id, mut beats) = session(&place, &init).await;
    beats.write_all(&beat(id)).await.unwrap();
    let mut wrong = id;
    wrong[15] ^= 1;
    beats.write_all(&beat(wrong)).await.unwrap();
    let mut rest = Vec::new();
    // An end, or a reset for what the enclave has not read any more.
    drop(soon(tokio::io::copy(&mut beats, &mut rest)).await);
    assert_eq!(rest.len() % 17, 0);
    soon(beating(&init, id)).await;
}

#[tokio::test]
async fn a_bridge_that_comes_back_is_asked_again_and_may_send_another_environment() {
    let place = Place::new();
    let init = place.host(5000);
    let (session, _, beats) = session(&place, &init).await;
    let mut changes = session.environment_changes();
    drop((init, beats));
    soon(until(&session, reconnecting)).await;

    let init = place.host(5000);
    // It refuses first: that is to be seen, and asked again.
    let (mut stream, _) = soon(asked(&init, V1)).await;
    stream.write_all(b"\x15PORT_IN_USE tcp 8080\n").await.unwrap();
    drop(stream);
    let refused = |state: &SessionState| matches!(state, SessionState::Refused { error, .. } if error.code() == Some(NakCode::PortInUse));
    soon(until(&session, refused)).await;
    let id = soon(granted(&init, r#"{"PLANET":"mars"}"#)).await;
    let _beats = soon(beating(&init, id)).await;
    soon(session.ready()).await.unwrap();
    changes.changed().await.unwrap();
    assert_eq!(session.environment().get("PLANET"), Some("mars"));
}

#[tokio::test(start_paused = true)]
async fn w10_five_minutes_without_a_bridge_and_the_same_program_is_served_again() {
    let place = Place::new();
    let init = place.host(5000);
    let (session, id, beats) = session(&place, &init).await;
    drop((init, beats));
    until(&session, reconnecting).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(reconnecting(&session.state().borrow()));
    let init = place.host(5000);
    let back = Instant::now();
    let new = granted(&init, V1_1).await;
    let _beats = beating(&init, new).await;
    session.ready().await.unwrap();
    assert!(back.elapsed() < Duration::from_secs(2), "asked again only after {:?}", back.elapsed());
    assert_ne!(new, id, "a session of its own");
}

#[tokio::test]
async fn beats_go_to_the_init_port_that_the_handshake_went_to() {
    let place = Place::new();
    let init = place.host(6000);
    let options = place.options().init_port(6000);
    let enclave = async { Bridge::connect(options).await.unwrap().start().await.unwrap() };
    let host = async {
        let id = granted(&init, V1_1).await;
        beating(&init, id).await
    };
    let (session, _beats) = soon(async { tokio::join!(enclave, host) }).await;
    soon(session.ready()).await.unwrap();
}
