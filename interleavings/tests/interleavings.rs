//! Every model, each a test.

use enclave_bridge_interleavings::models;

#[test]
fn printed_and_dropped_lines_are_all_lines() {
    models::printed_and_dropped_lines_are_all_lines();
}

#[test]
fn lines_of_a_failing_sink_are_counted() {
    models::lines_of_a_failing_sink_are_counted();
}

#[test]
fn streams_stay_within_their_limit_and_the_last_end_is_seen() {
    models::streams_stay_within_their_limit_and_the_last_end_is_seen();
}

#[test]
fn joining_waits_for_the_last_task() {
    models::joining_waits_for_the_last_task();
}

#[test]
fn one_of_many_is_let_through_each_second() {
    models::one_of_many_is_let_through_each_second();
}
