use ssmc_runtime::{RuntimeError, Session, SessionOptions, SlotId, Slots};

use crate::toy::{self, scan_ref};

fn step(session: &mut Session, slots: &mut Slots, tokens: &[(SlotId, u32)]) -> Vec<i32> {
    session.step_slots(slots, tokens).unwrap().as_slice::<i32>().unwrap().to_vec()
}

fn add(session: &mut Session, slots: &mut Slots, ids: &[u32]) -> SlotId {
    let mut state = session.new_state(1).unwrap();
    session.prefill(&mut state, ids).unwrap();
    slots.add(&state, 0).unwrap()
}

fn last(ids: &[u32]) -> i32 {
    *scan_ref(0, ids).last().unwrap()
}

#[test]
fn sequences_at_positions_of_their_own_decode_together() {
    let mut session = toy::session();
    let mut slots = session.new_slots(3).unwrap();
    assert_eq!((slots.capacity(), slots.len(), slots.is_empty()), (3, 0, true));
    let a = add(&mut session, &mut slots, &[3, 1]);
    let b = add(&mut session, &mut slots, &[5]);
    assert_eq!(step(&mut session, &mut slots, &[(b, 7), (a, 4)]), [last(&[5, 7]), last(&[3, 1, 4])]);
    let c = add(&mut session, &mut slots, &[9, 9, 9]);
    let found = step(&mut session, &mut slots, &[(a, 1), (b, 2), (c, 3)]);
    assert_eq!(found, [last(&[3, 1, 4, 1]), last(&[5, 7, 2]), last(&[9, 9, 9, 3])]);
    assert_eq!([a, b, c].map(|id| slots.position(id).unwrap()), [4, 3, 4]);
}

#[test]
fn slots_that_wait_keep_their_state() {
    let mut session = toy::session();
    let mut slots = session.new_slots(3).unwrap();
    let ids: Vec<SlotId> = [2, 3, 4].map(|id| add(&mut session, &mut slots, &[id])).to_vec();
    let mut read: Vec<Vec<u32>> = [2, 3, 4].map(|id| vec![id]).to_vec();
    // Every subset in some order.
    for (round, who) in
        [vec![2], vec![1], vec![2, 0], vec![0, 1, 2], vec![1, 2], vec![0], vec![1, 0]].iter().enumerate()
    {
        let tokens: Vec<(SlotId, u32)> = who.iter().map(|i| (ids[*i], (10 * round + i) as u32)).collect();
        for (i, (_, token)) in who.iter().zip(&tokens) {
            read[*i].push(*token);
        }
        let expected: Vec<i32> = who.iter().map(|i| last(&read[*i])).collect();
        assert_eq!(step(&mut session, &mut slots, &tokens), expected, "round {round}");
    }
    let lengths: Vec<u64> = read.iter().map(|ids| ids.len() as u64).collect();
    let positions: Vec<u64> = ids.iter().map(|id| slots.position(*id).unwrap()).collect();
    assert_eq!(positions, lengths);
}

#[test]
fn sequences_leave_and_others_take_their_place() {
    let mut session = toy::session();
    let mut slots = session.new_slots(2).unwrap();
    let (a, b) = (add(&mut session, &mut slots, &[1]), add(&mut session, &mut slots, &[2]));
    let state = session.new_state(1).unwrap();
    assert!(matches!(slots.add(&state, 0), Err(RuntimeError::SlotsFull { capacity: 2 })));
    slots.remove(a).unwrap();
    let c = add(&mut session, &mut slots, &[3]);
    assert_eq!(step(&mut session, &mut slots, &[(c, 5), (b, 4)]), [last(&[3, 5]), last(&[2, 4])]);
    assert!(matches!(slots.remove(a), Err(RuntimeError::NoSlot { id: 0 })));
    assert!(session.step_slots(&mut slots, &[(a, 1)]).is_err());
    assert_eq!(slots.ids().collect::<Vec<_>>(), [b, c]);
}

#[test]
fn forks_and_saved_slots_go_on_by_themselves() {
    let mut session = toy::session();
    let mut slots = session.new_slots(3).unwrap();
    let a = add(&mut session, &mut slots, &[6]);
    step(&mut session, &mut slots, &[(a, 1)]);
    let b = slots.fork(a).unwrap();
    assert_eq!(step(&mut session, &mut slots, &[(a, 2), (b, 3)]), [last(&[6, 1, 2]), last(&[6, 1, 3])]);
    // The fork takes along what can be undone.
    slots.rollback(b, 2).unwrap();
    assert_eq!((slots.position(b).unwrap(), slots.position(a).unwrap()), (1, 3));
    assert_eq!(step(&mut session, &mut slots, &[(b, 8)]), [last(&[6, 8])]);
    let bytes = slots.state(a).unwrap().save().unwrap();
    let mut other = toy::session();
    let mut state = other.load_state(&bytes).unwrap();
    assert_eq!(state.position(), 3);
    let found = other.step(&mut state, &[4]).unwrap();
    assert_eq!(found.as_slice::<i32>().unwrap(), [last(&[6, 1, 2, 4])]);
    let c = slots.add(&state, 0).unwrap();
    assert_eq!(step(&mut session, &mut slots, &[(c, 5)]), [last(&[6, 1, 2, 4, 5])]);
}

#[test]
fn each_slot_is_rolled_back_by_itself() {
    for depth in [0, 1, 3] {
        let mut session = toy::session_with(&SessionOptions { rollback_depth: depth, ..toy::options() });
        let mut slots = session.new_slots(2).unwrap();
        let (a, b) = (add(&mut session, &mut slots, &[1]), add(&mut session, &mut slots, &[2]));
        let mut read = [vec![1], vec![2]];
        for token in 3..9 {
            step(&mut session, &mut slots, &[(a, token), (b, token + 1)]);
            read[0].push(token);
            read[1].push(token + 1);
        }
        assert_eq!(slots.rollback_available(a).unwrap(), depth);
        let error = slots.rollback(a, depth + 1).unwrap_err();
        assert!(matches!(error, RuntimeError::Rollback { .. }));
        slots.rollback(a, depth).unwrap();
        read[0].truncate(read[0].len() - depth);
        read[0].push(50);
        read[1].push(60);
        let expected = [last(&read[0]), last(&read[1])];
        assert_eq!(step(&mut session, &mut slots, &[(a, 50), (b, 60)]), expected, "depth {depth}");
        // What waits loses steps as the others go on.
        for token in 0..3 {
            step(&mut session, &mut slots, &[(b, token)]);
        }
        assert_eq!(slots.rollback_available(a).unwrap(), 0);
    }
}

#[test]
fn what_a_step_cannot_do_is_refused_and_changes_nothing() {
    let mut session = toy::session();
    let mut slots = session.new_slots(2).unwrap();
    let a = add(&mut session, &mut slots, &[1]);
    assert!(matches!(session.step_slots(&mut slots, &[]), Err(RuntimeError::Tokens { .. })));
    let twice = session.step_slots(&mut slots, &[(a, 1), (a, 2)]);
    assert!(matches!(twice, Err(RuntimeError::SlotTwice { .. })));
    // The token is outside the vocabulary.
    assert!(matches!(session.step_slots(&mut slots, &[(a, 5000)]), Err(RuntimeError::Value { .. })));
    assert_eq!(slots.position(a).unwrap(), 1);
    assert_eq!(step(&mut session, &mut slots, &[(a, 2)]), [last(&[1, 2])]);
    let error = |n| session.new_slots(n).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error(0), "state does not fit: slots: expected 1 to 3, found 0");
    assert_eq!(error(4), "state does not fit: slots: expected 1 to 3, found 4");
    let state = session.new_state(2).unwrap();
    assert!(slots.add(&state, 2).is_err());
}
