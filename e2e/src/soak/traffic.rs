//! What goes on all the time: bulk, messages, streams through the enclave to the world and back, and some that last.

use super::stage::{Ground, Part};
use crate::dice::Dice;
use crate::talker::{Blob, End, Pieces, Plan, Reading, Socket, Told, Turn, judge, talk};
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A connection to a bridge that is stopped stands in its backlog; longer than any fault lasts.
const CONNECT: Duration = Duration::from_secs(20);

/// How long the other end of a stream may take to say what it found, once this one has.
const OTHER_END: Duration = Duration::from_secs(70);

/// What a lane does again and again, and how long it pauses: little beside what the bridge can do, so that the machine
/// does not decide what is found.
#[derive(Debug, Clone, Copy)]
enum Lane {
    Bulk,
    Messages,
    Egress,
    /// Streams of half a minute, so that every fault meets some that are long established.
    Lasting,
}

const LANES: [Lane; 12] = [
    Lane::Bulk,
    Lane::Bulk,
    Lane::Messages,
    Lane::Messages,
    Lane::Messages,
    Lane::Messages,
    Lane::Egress,
    Lane::Egress,
    Lane::Egress,
    Lane::Lasting,
    Lane::Lasting,
    Lane::Lasting,
];

/// The running lanes.
pub(super) struct Traffic {
    threads: Vec<JoinHandle<()>>,
    paused: Arc<AtomicBool>,
    busy: Arc<AtomicUsize>,
    ground: Arc<Ground>,
}

/// Starts them.
pub(super) fn start(ground: &Arc<Ground>, seed: u64) -> Traffic {
    let (paused, busy) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let threads = LANES.iter().enumerate().map(|(number, &lane)| {
        let (ground, paused, busy) = (ground.clone(), paused.clone(), busy.clone());
        let mut dice = Dice::new(seed ^ (number as u64 + 1) << 40);
        std::thread::spawn(move || {
            while !ground.stop.load(Ordering::SeqCst) {
                let lasting = matches!(lane, Lane::Lasting);
                if !lasting {
                    // Announced first, looked at then: whoever pauses looks the other way round.
                    busy.fetch_add(1, Ordering::SeqCst);
                    if paused.load(Ordering::SeqCst) {
                        busy.fetch_sub(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                }
                let pause = turn(&ground, lane, &mut dice);
                if !lasting {
                    busy.fetch_sub(1, Ordering::SeqCst);
                }
                std::thread::sleep(pause);
            }
        })
    });
    Traffic { threads: threads.collect(), paused, busy, ground: ground.clone() }
}

impl Traffic {
    /// No new streams but lasting ones; waits until the others are over.
    pub(super) fn pause(&self, within: Duration) -> Result<(), String> {
        self.paused.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + within;
        while self.busy.load(Ordering::SeqCst) > 0 {
            if Instant::now() > deadline {
                return Err(format!(
                    "{} lanes still busy {within:?} after they were asked to pause",
                    self.busy.load(Ordering::SeqCst)
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// On with it.
    pub(super) fn go_on(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    /// Ends every lane once its stream is over.
    pub(super) fn finish(self) {
        self.ground.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            if thread.join().is_err() {
                self.ground.account.wrong("a lane of the traffic panicked".to_owned());
            }
        }
    }
}

fn turn(ground: &Ground, lane: Lane, dice: &mut Dice) -> Duration {
    match lane {
        Lane::Bulk => {
            let blob = Blob { seed: dice.any(), length: dice.length(256 * 1024, 8 * 1024 * 1024) };
            echo(ground, "bulk", Plan::new(blob, blob));
            Duration::from_millis(200 + dice.below(400))
        }
        Lane::Messages => {
            let blob = Blob { seed: dice.any(), length: dice.length(2, 8192) };
            echo(ground, "message", Plan { pieces: Pieces::Uneven, ..Plan::new(blob, blob) });
            Duration::from_millis(10 + dice.below(40))
        }
        Lane::Egress => {
            let plan = |dice: &mut Dice| Blob { seed: dice.any(), length: dice.length(2, 2 * 1024 * 1024) };
            let (up, down) = (plan(dice), plan(dice));
            chain(ground, "egress", Plan::new(up, down), Plan::new(down, up), dice);
            Duration::from_millis(50 + dice.below(200))
        }
        Lane::Lasting => {
            let blob = Blob { seed: dice.any(), length: 20_000 + dice.below(60_000) };
            echo(ground, "lasting stream", Plan { pieces: Pieces::Drip, ..Plan::new(blob, blob) });
            Duration::from_millis(dice.below(500))
        }
    }
}

/// A stream to the enclave's echo, accounted for.
pub(super) fn echo(ground: &Ground, what: &str, plan: Plan) {
    let begun = Instant::now();
    let tcp = match TcpStream::connect_timeout(&ground.echo, CONNECT) {
        Ok(tcp) => tcp,
        Err(error) => {
            refused(ground, what, begun, &error);
            return;
        }
    };
    let blob = plan.speak;
    let told = talk(Socket::Tcp(tcp), plan);
    match judge(&told, blob, &told) {
        Err(wrong) => ground.account.wrong(format!("{what}: {wrong}")),
        Ok(()) if told.end == End::Clean => ground.account.whole(told.heard * 2),
        Ok(()) => ground.account.ended_early(what, begun, told.heard, &format!("{:?}", told.end)),
    }
}

fn refused(ground: &Ground, what: &str, begun: Instant, error: &std::io::Error) {
    ground.account.ended_early(what, begun, 0, &format!("connect: {error}"));
    // Where nobody listens it is refused at once: not thousands of times a second.
    std::thread::sleep(Duration::from_millis(50));
}

/// A stream through the enclave to the server of the world, accounted for at both of its ends.
pub(super) fn chain(ground: &Ground, what: &str, client: Plan, server: Plan, dice: &mut Dice) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::SeqCst) << 16 | dice.below(1 << 16);
    let (up, down) = (client.speak, server.speak);
    ground.parts.lock().expect("no panic").insert(number, Part::Waiting(Box::new(server)));
    let begun = Instant::now();
    let told = TcpStream::connect_timeout(&ground.chain, CONNECT).and_then(|mut tcp| {
        tcp.write_all(&number.to_le_bytes())?;
        Ok(talk(Socket::Tcp(tcp), client))
    });
    let at_server = other_end(ground, number, told.as_ref().is_ok_and(|told| told.end == End::Clean));
    let told = match told {
        Ok(told) => told,
        Err(error) => {
            refused(ground, what, begun, &error);
            return;
        }
    };
    let judged = match &at_server {
        Ok(Some(server)) => judge(&told, up, server).and_then(|()| judge(server, down, &told)),
        // It never came so far: then nobody can have said an end here.
        Ok(None) if told.end == End::Clean => Err("an end of a stream that never reached its server".to_owned()),
        Ok(None) => Ok(()),
        Err(wrong) => Err(wrong.clone()),
    };
    let server_clean = matches!(&at_server, Ok(Some(Told { end: End::Clean, .. })));
    match judged {
        Err(wrong) => ground.account.wrong(format!("{what}: {wrong}")),
        Ok(()) if told.end == End::Clean && server_clean => ground.account.whole(up.length + down.length),
        Ok(()) => {
            let how = format!("client {:?}, server {:?}", told.end, at_server.ok().flatten().map(|server| server.end));
            ground.account.ended_early(what, begun, told.heard, &how);
        }
    }
}

/// What the server's end found; `None` where the stream did not come to it.
fn other_end(ground: &Ground, number: u64, must: bool) -> Result<Option<Told>, String> {
    let deadline = Instant::now() + OTHER_END;
    loop {
        {
            let mut parts = ground.parts.lock().expect("no panic");
            match parts.remove(&number) {
                Some(Part::Done(told)) => return Ok(Some(*told)),
                Some(Part::Waiting(_)) if !must => return Ok(None),
                Some(part) => drop(parts.insert(number, part)),
                None => return Ok(None),
            }
        }
        if Instant::now() > deadline {
            ground.parts.lock().expect("no panic").remove(&number);
            return Err("the server's end did not end".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Thirty streams through the enclave to the world, in every order of ends.
pub(super) fn half_closes(ground: &Ground, dice: &mut Dice) {
    for _ in 0..30 {
        let mut blob = || Blob { seed: dice.any(), length: dice.length(2, 512 * 1024) };
        let (up, down) = (blob(), blob());
        let (mut client, mut server) = (Plan::new(up, down), Plan::new(down, up));
        match dice.below(4) {
            0 => client.turn = Turn::EndsLast,
            1 => client.turn = Turn::SpeaksLast,
            2 => server.turn = Turn::EndsLast,
            _ => server.turn = Turn::SpeaksLast,
        }
        chain(ground, "half-closed stream", client, server, dice);
    }
}

/// Twenty streams of 4 MiB whose readers begin late.
pub(super) fn stalled(ground: &Ground, dice: &mut Dice) {
    let pause = Duration::from_secs(5 + dice.below(5));
    std::thread::scope(|scope| {
        for _ in 0..20 {
            let blob = Blob { seed: dice.any(), length: 4 * 1024 * 1024 };
            let plan = Plan { reading: Reading::Stalled { at: 0, pause }, ..Plan::new(blob, blob) };
            scope.spawn(move || echo(ground, "stalled reader", plan));
        }
    });
}

/// Whether a short stream echoes now.
pub(super) fn probe(echo: SocketAddr) -> std::io::Result<()> {
    let mut tcp = TcpStream::connect_timeout(&echo, CONNECT)?;
    tcp.set_read_timeout(Some(CONNECT))?;
    tcp.write_all(b"probe")?;
    tcp.read_exact(&mut [0; 5])
}
