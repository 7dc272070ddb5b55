//! How much a direction may read before others have their turn: what a thread moves in one turn is shared by the directions
//! that are busy on it, so that a turn, and with it what anybody else there waits for, does not grow with their number.

use std::cell::Cell;

use super::{BUDGET_BYTES, SCRATCH_BYTES};

/// One more than a new direction's, which has had no turn yet.
const FIRST: u16 = 1;

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn { number: FIRST, busy: 0, before: 0 }) };
}

/// A turn of the thread: it is over when a direction that has had its share in it comes again.
#[derive(Clone, Copy)]
struct Turn {
    number: u16,
    /// Directions that have had their share.
    busy: usize,
    /// Those of the turn before.
    before: usize,
}

/// The bytes that a direction may read in one poll. `last` is the turn in which it last had its share.
pub(super) fn share(last: u16) -> usize {
    let turn = TURN.get();
    let with_this = if last == turn.number { turn.busy } else { turn.busy.saturating_add(1) };
    let busy = with_this.max(turn.before);
    BUDGET_BYTES.checked_div(busy).unwrap_or(BUDGET_BYTES).max(SCRATCH_BYTES)
}

/// A direction has read `bytes` in one poll. Less than the least share is no turn: there was no more, or it could not go on.
pub(super) fn taken(last: &mut u16, bytes: usize) {
    if bytes < SCRATCH_BYTES {
        return;
    }
    let mut turn = TURN.get();
    if *last == turn.number {
        // After 65,536 turns an old number is met again: a turn that ends early, once.
        turn = Turn { number: turn.number.wrapping_add(1), busy: 0, before: turn.busy };
    }
    turn.busy = turn.busy.saturating_add(1);
    *last = turn.number;
    TURN.set(turn);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One turn of these directions, each of which takes all that it may; what each may.
    fn turn(directions: &mut [u16]) -> Vec<usize> {
        let one = |last: &mut u16| {
            let share = share(*last);
            taken(last, share);
            share
        };
        directions.iter_mut().map(one).collect()
    }

    #[test]
    fn a_turn_is_shared_by_those_that_are_busy_and_by_no_other() {
        let mut directions = [0; 100];
        assert_eq!(turn(&mut directions[..1]), [BUDGET_BYTES], "alone");
        for busy in [2, 4, 100] {
            turn(&mut directions[..busy]);
            let share = (BUDGET_BYTES / busy).max(SCRATCH_BYTES);
            assert_eq!(turn(&mut directions[..busy]), vec![share; busy]);
        }
        // The others have gone: the turn after the next is its own.
        turn(&mut directions[..1]);
        turn(&mut directions[..1]);
        assert_eq!(turn(&mut directions[..1]), [BUDGET_BYTES]);
        // Ten that read little are none.
        for last in &mut directions[1..11] {
            taken(last, SCRATCH_BYTES - 1);
        }
        assert_eq!(turn(&mut directions[..1]), [BUDGET_BYTES]);
    }
}
