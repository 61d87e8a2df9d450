use super::*;
use crate::failure::Phase;

const SENT: Seen = Seen { sent: true, answered: false, crossed: false, end: End::Broken };

#[test]
fn the_fate_follows_from_what_was_seen() {
    use End::{Broken, Closed, Declined, TimedOut};
    let stale = |unsent| Fate::Stale { unsent };
    let unsent = |stuck| Fate::Unsent { stuck };
    // (sent, answered, crossed), end, fate
    let rows = [
        ((true, false, false), Closed, Fate::Lost),
        ((true, false, false), Broken, Fate::Unknown),
        ((true, false, false), Declined, Fate::Declined),
        ((true, false, false), TimedOut, Fate::Silent),
        ((true, false, true), Closed, stale(false)),
        ((false, false, true), Closed, stale(true)),
        // A time-out on an idle connection is not stale: only what was closed is.
        ((true, false, true), TimedOut, Fate::Silent),
        ((true, false, true), Broken, Fate::Unknown),
        ((false, false, false), Closed, unsent(false)),
        ((false, false, false), Broken, unsent(false)),
        ((false, false, false), TimedOut, unsent(true)),
        ((false, false, true), TimedOut, unsent(true)),
        // Evidence beats claims, and explanations.
        ((true, true, false), Declined, Fate::Executed),
        ((true, true, true), Closed, Fate::Executed),
        ((true, true, false), Closed, Fate::Executed),
        ((true, true, false), Broken, Fate::Executed),
        ((false, true, true), Closed, Fate::Executed),
        ((false, true, false), Declined, Fate::Executed),
        ((true, true, false), TimedOut, Fate::Silent),
    ];
    for ((sent, answered, crossed), end, fate) in rows {
        let seen = Seen { sent, answered, crossed, end };
        assert_eq!(seen.fate(), fate, "{seen:?}");
    }
}

#[test]
fn nothing_that_was_answered_or_may_have_been_read_counts_as_unprocessed() {
    for sent in [false, true] {
        for answered in [false, true] {
            for crossed in [false, true] {
                for end in [End::Closed, End::Declined, End::TimedOut, End::Broken] {
                    let seen = Seen { sent, answered, crossed, end };
                    let unprocessed = seen.fate().is_unprocessed();
                    let may_be = !answered && (!sent || end == End::Declined);
                    assert_eq!(unprocessed, may_be, "{seen:?}");
                }
            }
        }
    }
    assert_eq!(SENT.fate(), Fate::Unknown);
}

const LEFT: Left = Left {
    idempotent: true,
    replay: true,
    attempts: 1,
    retries: true,
    time: true,
    turn: true,
    fresh: true,
    bereaved: false,
    passes: true,
};

const ALL: [Fate; 10] = [
    Fate::Unreachable,
    Fate::Declined,
    Fate::Stale { unsent: true },
    Fate::Stale { unsent: false },
    Fate::Unsent { stuck: true },
    Fate::Unsent { stuck: false },
    Fate::Lost,
    Fate::Silent,
    Fate::Executed,
    Fate::Unknown,
];

/// What follows each fate, in the order of [`ALL`].
fn all(left: Left) -> [Next; 10] {
    ALL.map(|fate| next(fate, left))
}

const FREE: Next = Next::Attempt { else_same: true, charged: false };
const AGAIN: Next = Next::Attempt { else_same: true, charged: true };
const OTHER: Next = Next::Attempt { else_same: false, charged: true };
const UNREACHABLE: Next = Next::Elsewhere { else_same: false };
const UNSENT: Next = Next::Elsewhere { else_same: true };

#[test]
fn what_may_be_processed_twice_goes_out_again() {
    use Next::{Fresh, Turn};
    let expected = [UNREACHABLE, Turn, Fresh, Fresh, OTHER, UNSENT, AGAIN, OTHER, AGAIN, AGAIN];
    assert_eq!(all(LEFT), expected);
}

#[test]
fn what_may_not_be_processed_twice_goes_out_again_only_if_it_was_not_processed() {
    use Next::{Fail, Fresh, Turn};
    let post = Left { idempotent: false, ..LEFT };
    let expected = [UNREACHABLE, Turn, Fresh, Fail, OTHER, UNSENT, Fail, Fail, Fail, Fail];
    assert_eq!(all(post), expected);
    for (fate, next) in ALL.into_iter().zip(all(post)) {
        assert!(next == Next::Fail || fate.is_unprocessed(), "{fate:?} {next:?}");
    }
}

#[test]
fn without_content_or_time_nothing_goes_out_again() {
    for left in [Left { replay: false, ..LEFT }, Left { time: false, ..LEFT }] {
        assert_eq!(all(left), [Next::Fail; 10]);
    }
}

#[test]
fn without_an_attempt_left_only_what_was_none_goes_out_again() {
    use Next::{Fail, Fresh, Turn};
    let spent = Left { attempts: 0, ..LEFT };
    let expected = [UNREACHABLE, Turn, Fresh, Fresh, Fail, UNREACHABLE, Fail, Fail, Fail, Fail];
    assert_eq!(all(spent), expected);
    // Where retries are off, what has begun stays where it is.
    let off = Left { attempts: 0, retries: false, ..LEFT };
    let expected = [UNREACHABLE, Fail, Fresh, Fresh, Fail, UNREACHABLE, Fail, Fail, Fail, Fail];
    assert_eq!(all(off), expected);
}

#[test]
fn a_second_stale_connection_is_treated_as_any_other_that_broke() {
    let met = Left { fresh: false, ..LEFT };
    assert_eq!(next(Fate::Stale { unsent: false }, met), AGAIN);
    assert_eq!(next(Fate::Stale { unsent: true }, met), UNSENT);
    let post = Left { idempotent: false, ..met };
    assert_eq!(next(Fate::Stale { unsent: false }, post), Next::Fail);
}

#[test]
fn a_refused_request_waits_for_its_turn_no_longer_than_it_may() {
    assert_eq!(next(Fate::Declined, Left { turn: false, ..LEFT }), Next::Fail);
}

#[test]
fn a_request_that_was_in_flight_at_a_death_is_free_of_the_budget() {
    let bereaved = Left { bereaved: true, ..LEFT };
    assert_eq!(next(Fate::Lost, bereaved), FREE);
    assert_eq!(next(Fate::Executed, bereaved), FREE);
    assert_eq!(next(Fate::Silent, bereaved), OTHER, "a time-out is never free");
    let post = Left { idempotent: false, ..bereaved };
    assert_eq!(next(Fate::Lost, post), Next::Fail);
    assert_eq!(next(Fate::Lost, Left { attempts: 0, ..bereaved }), Next::Fail);
}

#[test]
fn a_failure_that_would_be_the_same_again_ends_the_request() {
    let same = Left { passes: false, ..LEFT };
    for fate in [Fate::Silent, Fate::Executed, Fate::Unknown] {
        assert_eq!(next(fate, same), Next::Fail, "{fate:?}");
    }
}

#[test]
fn the_end_of_a_connection_of_its_own_is_in_the_kind() {
    let end = |kind| End::of(&Failure::new(kind, Phase::Head));
    assert_eq!(end(Kind::ConnectionTerminated), End::Closed);
    assert_eq!(end(Kind::HttpResponseIncomplete), End::Closed);
    assert_eq!(end(Kind::HttpResponseTimeout), End::TimedOut);
    assert_eq!(end(Kind::ConnectionWriteTimeout), End::TimedOut);
    assert_eq!(end(Kind::HttpProtocolError), End::Broken);
    assert_eq!(end(Kind::TlsAlertReceived), End::Broken);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_dies_at_most_once_in_ten_seconds() {
    let deaths = Deaths::default();
    let sent = Instant::now();
    let after = |seconds| sent + Duration::from_secs(seconds);
    // One that was answered in part may have met its own end.
    assert!(!deaths.took(sent, after(1), false));
    assert!(deaths.took(sent, after(1), true));
    assert!(deaths.took(sent, after(2), true), "in flight at that moment");
    assert!(deaths.took(sent, after(2), false), "likewise, answered in part");
    assert!(!deaths.took(after(2), after(3), true), "sent after it");
    assert!(!deaths.took(after(10), after(10), true));
    assert!(deaths.took(after(10), after(11), true), "it died again");
    assert!(!deaths.took(after(12), after(12), true));
}
