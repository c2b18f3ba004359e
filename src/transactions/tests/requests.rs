//! What is answered, by the protocol's versions.

use super::bed::{Bed, PATIENCE_MS, TIMEOUT_MS, producer, tp};
use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::transactions::queries::Filters;
use crate::transactions::transaction::{LAST_EPOCH, State};
use crate::transactions::*;

fn with_epoch(of: Producer, epoch: i16) -> Producer {
    Producer { epoch: ProducerEpoch(epoch), ..of }
}

#[test]
fn a_transaction_is_committed_and_the_next_one_waits_for_it() {
    for v2 in [false, true] {
        let mut bed = Bed::new();
        let first = bed.init("t", None).expect("answered").expect("new");
        assert_eq!(first, producer(1001, 0));
        assert_eq!(bed.add("t", first, tp("a", 0), v2), Some(ErrorCode::None));
        assert_eq!(bed.add("t", first, tp("a", 1), v2), Some(ErrorCode::None));
        let batches = bed.log.len();
        assert_eq!(bed.add("t", first, tp("a", 1), v2), Some(ErrorCode::None));
        assert_eq!(bed.log.len(), batches, "what is in it already is not written again");
        let next = bed.end("t", first, true, v2).expect("answered").expect("it goes on");
        assert_eq!(next, with_epoch(first, i16::from(v2)));
        assert_eq!(bed.state("t"), Some((State::PrepareCommit, next)));
        // The next one: waits, and goes on by itself.
        let request = Request::AddPartitions {
            id: "t".into(),
            producer: next,
            partitions: vec![tp("b", 0)],
            verify_only: false,
            v2,
        };
        let token = bed.send(request);
        assert_eq!(bed.answer(token), None);
        let order = bed.write_markers();
        assert_eq!((order.producer, order.commit, order.coordinator_epoch), (next, true, 3));
        assert_eq!(order.partitions, [tp("a", 0), tp("a", 1)]);
        assert_eq!(bed.answer(token), Some(Response::AddPartitions(Ok(vec![ErrorCode::None]))));
        assert_eq!(bed.state("t"), Some((State::Ongoing, next)));
        bed.event(Event::MarkersWritten { id: "t".into(), producer: next });
        assert_eq!(bed.state("t"), Some((State::Ongoing, next)), "markers of the one before, again");
        // A late EndTxn of the one before: with growing epochs it can be told.
        let late = bed.end("t", first, true, v2).expect("answered");
        assert_eq!(late.err(), v2.then_some(ErrorCode::ProducerFenced));
    }
}

#[test]
fn who_waits_too_long_is_told() {
    let mut bed = Bed::new();
    let me = bed.init("t", None).expect("answered").expect("new");
    bed.add("t", me, tp("a", 0), false);
    bed.end("t", me, false, false);
    let add = Request::AddPartitions {
        id: "t".into(),
        producer: me,
        partitions: vec![tp("b", 0)],
        verify_only: true,
        v2: false,
    };
    let end = Request::EndTxn { id: "t".into(), producer: me, commit: false, v2: false, fresh: None };
    let (first, second, gone) = (bed.send(add.clone()), bed.send(end), bed.send(add));
    bed.event(Event::Gone(gone));
    bed.pass(PATIENCE_MS - 1);
    assert_eq!(bed.answers, []);
    bed.pass(1);
    let code = ErrorCode::ConcurrentTransactions;
    assert_eq!(bed.answer(first), Some(Response::AddPartitions(Err(code))));
    assert_eq!(bed.answer(second), Some(Response::EndTxn(Err(code))));
    assert_eq!(bed.answers, []);
}

#[test]
fn codes_of_those_who_are_not_the_producer() {
    let mut bed = Bed::new();
    let stranger = producer(7, 0);
    assert_eq!(bed.add("t", stranger, tp("a", 0), true), Some(ErrorCode::InvalidProducerIdMapping));
    assert_eq!(bed.end("t", stranger, true, true), Some(Err(ErrorCode::InvalidProducerIdMapping)));
    let old = bed.init("t", None).expect("answered").expect("new");
    let me = bed.init("t", None).expect("answered").expect("again");
    assert_eq!(me, with_epoch(old, 1));
    for v2 in [false, true] {
        assert_eq!(bed.add("t", stranger, tp("a", 0), v2), Some(ErrorCode::InvalidProducerIdMapping));
        assert_eq!(bed.add("t", old, tp("a", 0), v2), Some(ErrorCode::ProducerFenced));
        assert_eq!(bed.end("t", stranger, true, v2), Some(Err(ErrorCode::InvalidProducerIdMapping)));
        assert_eq!(bed.end("t", old, false, v2), Some(Err(ErrorCode::ProducerFenced)));
    }
    assert_eq!(bed.init("t", Some(stranger)), Some(Err(ErrorCode::ProducerFenced)));
    assert_eq!(bed.init("t", Some(old)), Some(Err(ErrorCode::ProducerFenced)));
    let timeout = |timeout_ms| Request::InitProducerId { id: "u".into(), timeout_ms, expected: None, fresh: None };
    for ms in [0, -1, 900_001] {
        let refused = Response::InitProducerId(Err(ErrorCode::InvalidTransactionTimeout));
        assert_eq!(bed.ask(timeout(ms)), Some(refused), "{ms}");
    }
}

#[test]
fn endings_by_state_and_version() {
    use ErrorCode::InvalidTxnState as Wrong;
    // Old clients: Empty, CompleteCommit, CompleteAbort with the same epoch.
    let mut bed = Bed::new();
    let me = bed.init("t", None).expect("answered").expect("new");
    assert_eq!(bed.end("t", me, true, false), Some(Err(Wrong)));
    assert_eq!(bed.end("t", me, false, false), Some(Err(Wrong)));
    for commit in [true, false] {
        bed.add("t", me, tp("a", 0), false);
        assert_eq!(bed.end("t", me, commit, false), Some(Ok(me)));
        assert_eq!(bed.end("t", me, !commit, false), Some(Err(Wrong)), "it is decided");
        bed.write_markers();
        assert_eq!(bed.end("t", me, commit, false), Some(Ok(me)), "asked again");
        assert_eq!(bed.end("t", me, !commit, false), Some(Err(Wrong)));
    }
    // New ones.
    let mut me = bed.init("t", None).expect("answered").expect("again");
    assert_eq!(bed.end("t", me, true, true), Some(Err(Wrong)), "nothing to commit");
    me = bed.end("t", me, false, true).expect("answered").expect("an abort of nothing is one");
    for commit in [true, false] {
        bed.add("t", me, tp("a", 0), true);
        let next = bed.end("t", me, commit, true).expect("answered").expect("it goes on");
        assert_eq!(next, with_epoch(me, me.epoch.0 + 1));
        assert_eq!(bed.end("t", me, !commit, true), Some(Err(Wrong)), "it is decided");
        bed.write_markers();
        assert_eq!(bed.end("t", me, commit, true), Some(Ok(next)), "asked again");
        assert_eq!(bed.end("t", me, !commit, true), Some(Err(Wrong)));
        assert_eq!(bed.end("t", next, true, true), Some(Err(Wrong)), "nothing to commit");
        me = bed.end("t", next, false, true).expect("answered").expect("an abort of nothing");
    }
}

#[test]
fn what_lasts_too_long_is_aborted() {
    for v2 in [false, true] {
        let mut bed = Bed::new();
        let me = bed.init("t", None).expect("answered").expect("new");
        bed.add("t", me, tp("a", 0), v2);
        bed.pass(i64::from(TIMEOUT_MS) - 1);
        assert_eq!(bed.orders, []);
        bed.pass(1);
        let order = bed.write_markers();
        let next = with_epoch(me, 1);
        assert_eq!((order.commit, order.producer), (false, next));
        assert_eq!(bed.add("t", me, tp("a", 0), v2), Some(ErrorCode::ProducerFenced));
        // As Kafka 4.2: a newer client that aborts goes on, it has lost nothing that it was promised.
        let (commit, abort) = if v2 {
            (Err(ErrorCode::InvalidTxnState), Ok(next))
        } else {
            (Err(ErrorCode::ProducerFenced), Err(ErrorCode::ProducerFenced))
        };
        assert_eq!(bed.end("t", me, true, v2), Some(commit));
        assert_eq!(bed.end("t", me, false, v2), Some(abort));
        assert_eq!(bed.init("t", None), Some(Ok(with_epoch(me, 2))));
        assert_eq!(bed.end("t", me, false, v2), Some(Err(ErrorCode::ProducerFenced)));
    }
}

#[test]
fn a_timeout_goes_on_over_a_restart() {
    let mut bed = Bed::new();
    let me = bed.init("t", None).expect("answered").expect("new");
    bed.add("t", me, tp("a", 0), false);
    bed.pass(2_000);
    bed.now.monotonic_ms = 0;
    bed.crash();
    bed.pass(i64::from(TIMEOUT_MS) - 2_001);
    assert_eq!(bed.orders, []);
    bed.pass(1);
    assert_eq!(bed.orders.len(), 1);
}

#[test]
fn who_comes_back_ends_what_was_going_on() {
    let mut bed = Bed::new();
    let old = bed.init("t", None).expect("answered").expect("new");
    bed.add("t", old, tp("a", 0), true);
    let request = Request::InitProducerId { id: "t".into(), timeout_ms: TIMEOUT_MS, expected: None, fresh: None };
    let token = bed.send(request);
    assert_eq!(bed.answer(token), None, "once that is over");
    assert!(!bed.orders[0].commit);
    bed.write_markers();
    assert_eq!(bed.answer(token), Some(Response::InitProducerId(Ok(with_epoch(old, 2)))));
    assert_eq!(bed.end("t", old, true, true), Some(Err(ErrorCode::ProducerFenced)));
}

#[test]
fn an_answer_that_was_lost_is_given_again() {
    let mut bed = Bed::new();
    let first = bed.init("t", None).expect("answered").expect("new");
    let second = bed.init("t", Some(first)).expect("answered").expect("again");
    assert_eq!(second, with_epoch(first, 1));
    assert_eq!(bed.init("t", Some(first)), Some(Ok(second)));
    // Somebody else comes: whoever was before is out.
    bed.init("t", None);
    assert_eq!(bed.init("t", Some(first)), Some(Err(ErrorCode::ProducerFenced)));
    assert_eq!(bed.init("t", Some(second)), Some(Err(ErrorCode::ProducerFenced)));
}

/// A producer with the last epoch of its id.
fn at_the_last_epoch(bed: &mut Bed) -> Producer {
    let mut me = bed.init("t", None).expect("answered").expect("new");
    while me.epoch < LAST_EPOCH {
        me = bed.init("t", Some(me)).expect("answered").expect("again");
    }
    bed.log = bed.log.split_off(bed.log.len() - 1);
    me
}

#[test]
fn epochs_run_out() {
    let mut bed = Bed::new();
    let me = at_the_last_epoch(&mut bed);
    let next = bed.init("t", Some(me)).expect("answered").expect("with another id");
    assert_eq!(next.epoch, ProducerEpoch(0));
    assert_ne!(next.id, me.id);
    assert_eq!(bed.init("t", Some(me)), Some(Ok(next)), "the answer was lost");

    // At the end of a transaction.
    let mut bed = Bed::new();
    let me = at_the_last_epoch(&mut bed);
    bed.add("t", me, tp("a", 0), true);
    let next = bed.end("t", me, true, true).expect("answered").expect("with another id");
    assert_eq!((next.epoch, next.id != me.id), (ProducerEpoch(0), true));
    let add = Request::AddPartitions {
        id: "t".into(),
        producer: next,
        partitions: vec![tp("b", 0)],
        verify_only: false,
        v2: true,
    };
    bed.crash();
    let token = bed.send(add);
    let order = bed.write_markers();
    assert_eq!(order.producer, with_epoch(me, i16::MAX));
    assert_eq!(bed.answer(token), Some(Response::AddPartitions(Ok(vec![ErrorCode::None]))));

    // By a timeout: the last epoch of all fences, and nobody takes it for his own.
    for crash in [false, true] {
        let mut bed = Bed::new();
        let me = at_the_last_epoch(&mut bed);
        bed.add("t", me, tp("a", 0), true);
        bed.pass(i64::from(TIMEOUT_MS));
        if crash {
            bed.crash();
        }
        assert_eq!(bed.end("t", me, false, true), Some(Err(ErrorCode::ProducerFenced)));
        bed.write_markers();
        assert_eq!(bed.end("t", me, false, true), Some(Err(ErrorCode::ProducerFenced)));
        let next = bed.init("t", None).expect("answered").expect("with another id");
        assert_eq!((next.epoch, next.id != me.id), (ProducerEpoch(0), true));
    }
}

#[test]
fn an_answer_lost_in_a_crash_is_given_again() {
    let mut bed = Bed::new();
    let me = bed.init("t", None).expect("answered").expect("new");
    bed.add("t", me, tp("a", 0), true);
    let next = bed.end("t", me, true, true).expect("answered").expect("it goes on");
    bed.crash();
    let token = bed.send(Request::EndTxn { id: "t".into(), producer: me, commit: true, v2: true, fresh: None });
    assert_eq!(bed.answer(token), None);
    bed.write_markers();
    assert_eq!(bed.answer(token), Some(Response::EndTxn(Ok(next))));
}

#[test]
fn only_what_is_in_the_transaction_is_verified() {
    let mut bed = Bed::new();
    let me = bed.init("t", None).expect("answered").expect("new");
    let verify = Request::AddPartitions {
        id: "t".into(),
        producer: me,
        partitions: vec![tp("a", 0), tp("a", 1)],
        verify_only: true,
        v2: false,
    };
    let no = ErrorCode::TransactionAbortable;
    assert_eq!(bed.ask(verify.clone()), Some(Response::AddPartitions(Ok(vec![no, no]))));
    bed.add("t", me, tp("a", 1), false);
    assert_eq!(bed.ask(verify), Some(Response::AddPartitions(Ok(vec![no, ErrorCode::None]))));
}

#[test]
fn ids_expire_when_nothing_goes_on() {
    let mut bed = Bed::new();
    let idle = bed.init("idle", None).expect("answered").expect("new");
    bed.pass(30_000);
    let busy = bed.init("busy", None).expect("answered").expect("new");
    bed.pass(29_999);
    assert!(bed.state("idle").is_some());
    bed.pass(10_000);
    assert_eq!(bed.state("idle"), None);
    assert_eq!(bed.add("idle", idle, tp("a", 0), true), Some(ErrorCode::InvalidProducerIdMapping));
    assert_eq!(bed.state("busy"), Some((State::Empty, busy)));
    bed.crash();
    assert_eq!(bed.state("idle"), None, "with a tombstone");
}

#[test]
fn lists_by_state_producer_age_and_pattern() {
    let mut bed = Bed::new();
    let a = bed.init("a", None).expect("answered").expect("new");
    bed.add("a", a, tp("x", 0), true);
    bed.pass(1_000);
    let b = bed.init("bb", None).expect("answered").expect("new");
    bed.add("bb", b, tp("x", 0), true);
    bed.init("c", None);
    let mut list = |filters: Filters| match bed.ask(Request::List(Box::new(filters))) {
        Some(Response::List(all)) => all.iter().map(|listed| listed.id.to_string()).collect::<String>(),
        other => unreachable!("{other:?}"),
    };
    let any = Filters { longer_than_ms: -1, ..Filters::default() };
    assert_eq!(list(any.clone()), "abbc");
    assert_eq!(list(Filters { states: vec![State::Ongoing], ..any.clone() }), "abb");
    assert_eq!(list(Filters { producer_ids: vec![ProducerId(a.id.0)], ..any.clone() }), "a");
    // As Kafka: what never began is old.
    assert_eq!(list(Filters { longer_than_ms: 999, ..any.clone() }), "ac");
    assert_eq!(list(Filters { longer_than_ms: 1_000, ..any.clone() }), "c");
    assert_eq!(list(Filters { pattern: regex::Regex::new("^(?:b+)$").ok(), ..any }), "bb");
}
