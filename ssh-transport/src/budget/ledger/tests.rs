use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { process: 1000, owner: 400, stream: 100, patience: Duration::from_secs(30) };

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_spent_budget_ends_whoever_of_that_owner_has_stalled_longest_and_nobody_else() {
    let (mut ledger, start) = (Ledger::new(LIMITS), Instant::now());
    let (greedy, other) = (ledger.carrier("greedy"), ledger.carrier("other"));
    let streams: Vec<Id> = (0..8).map(|_| ledger.stream(greedy)).collect();
    let bystander = ledger.stream(other);
    ledger.charge(bystander, 90);
    ledger.stall(bystander, start);
    for (second, stream) in streams.iter().enumerate() {
        assert!(ledger.may_read(greedy), "{second}");
        ledger.charge(*stream, 50);
        ledger.stall(*stream, start + seconds(second as u64));
    }
    assert!(!ledger.may_read(greedy));
    assert!(ledger.may_read(other), "it has its own budget");
    assert_eq!(ledger.judge(start + seconds(8)), [(streams[0], Reason::OwnerBudget)]);
    assert_eq!(ledger.judge(start + seconds(9)), [], "one is on its way out");
    assert_eq!(ledger.leave(streams[0]), Opened::Many);
    assert!(ledger.may_read(greedy));
    assert_eq!(ledger.judge(start + seconds(20)), [], "there is room again");
    ledger.charge(streams[7], 50);
    // The second moved something meanwhile, so the third has stalled longest.
    ledger.release(streams[1], 1);
    ledger.progress(streams[1]);
    ledger.charge(streams[1], 1);
    assert_eq!(ledger.judge(start + seconds(20)), [(streams[2], Reason::OwnerBudget)]);
}

#[test]
fn who_moves_is_slow_and_not_stalled() {
    let (mut ledger, start) = (Ledger::new(LIMITS), Instant::now());
    let carrier = ledger.carrier("me");
    let stream = ledger.stream(carrier);
    ledger.charge(stream, 400);
    assert_eq!(ledger.judge(start + seconds(1000)), [], "it never had to wait");
    ledger.stall(stream, start + seconds(1000));
    assert_eq!(ledger.judge(start + seconds(1000) + BREATH / 2), []);
    ledger.progress(stream);
    ledger.stall(stream, start + seconds(1001));
    assert_eq!(ledger.judge(start + seconds(1001) + BREATH / 2), []);
    assert_eq!(ledger.judge(start + seconds(1001) + BREATH), [(stream, Reason::OwnerBudget)]);
}

#[test]
fn patience_counts_only_while_a_carrier_is_held_up() {
    let (mut ledger, start) = (Ledger::new(LIMITS), Instant::now());
    let carrier = ledger.carrier("me");
    let (full, little, done) = (ledger.stream(carrier), ledger.stream(carrier), ledger.stream(carrier));
    for (stream, bytes) in [(full, 100), (little, 99), (done, 150)] {
        ledger.stall(stream, start);
        if stream == done {
            ledger.finish(stream);
        }
        ledger.charge(stream, bytes);
    }
    assert!(!ledger.may_read(carrier));
    assert_eq!(ledger.judge(start + seconds(29)), []);
    assert_eq!(ledger.judge(start + seconds(3000)), [(full, Reason::Stalled)]);
    assert_eq!(ledger.leave(full), Opened::Carrier(carrier));
    assert!(ledger.may_read(carrier));
    assert_eq!(ledger.judge(start + seconds(30_000)), [], "no stream waits behind the others");
    // Nor behind one that is finished after it had held up its carrier.
    ledger.charge(little, 1);
    assert!(!ledger.may_read(carrier));
    assert_eq!(ledger.finish(little), Opened::Carrier(carrier));
    assert_eq!(ledger.judge(start + seconds(60_000)), []);
}

#[test]
fn the_process_s_budget_ends_the_greediest_and_leaves_everyone_an_allowance() {
    let limits = Limits { process: 1000, owner: 900, stream: 5000, ..LIMITS };
    let (mut ledger, start) = (Ledger::new(limits), Instant::now());
    let names = ["first", "second", "third", "fourth"];
    let carriers = names.map(|name| ledger.carrier(name));
    let streams = carriers.map(|carrier| ledger.stream(carrier));
    for (number, (stream, bytes)) in streams.into_iter().zip([100, 500, 400, 0]).enumerate() {
        ledger.charge(stream, bytes);
        ledger.stall(stream, start + seconds(number as u64));
    }
    assert_eq!(carriers.map(|carrier| ledger.may_read(carrier)), [true, false, false, true]);
    assert_eq!(ledger.judge(start + seconds(10)), [(streams[1], Reason::ProcessBudget)]);
    assert_eq!(ledger.judge(start + seconds(11)), []);
    assert_eq!(ledger.leave(streams[1]), Opened::Many);
    assert_eq!(carriers.map(|carrier| ledger.may_read(carrier)), [true; 4]);
}

#[test]
fn a_carrier_whose_peer_does_not_read_is_one_of_them_and_trifles_are_not() {
    let (mut ledger, start) = (Ledger::new(LIMITS), Instant::now());
    let (stuck, well) = (ledger.carrier("me"), ledger.carrier("me"));
    let trifle = ledger.stream(well);
    ledger.charge(trifle, 10);
    ledger.stall(trifle, start);
    ledger.charge(stuck, 390);
    ledger.stall(stuck, start + seconds(5));
    assert_eq!(
        ledger.judge(start + seconds(10)),
        [(stuck, Reason::OwnerBudget)],
        "10 bytes help no other stream"
    );
}

#[test]
fn owners_are_forgotten_with_the_last_that_they_have() {
    let mut ledger = Ledger::new(LIMITS);
    let carrier = ledger.carrier("me");
    let stream = ledger.stream(carrier);
    ledger.charge(stream, 7);
    ledger.leave(stream);
    ledger.leave(carrier);
    assert!(ledger.holders.is_empty() && ledger.owners.is_empty() && ledger.names.is_empty());
    assert_eq!(ledger.total(), 0);
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Charge(usize, u64),
    Release(usize, u64),
    Stall(usize),
    Progress(usize),
    Finish(usize),
    Leave(usize),
    Judge,
}

fn deed() -> impl Strategy<Value = Deed> {
    let (which, bytes) = (0_usize..24, 0_u64..200);
    prop_oneof![
        4 => (which.clone(), bytes.clone()).prop_map(|(which, bytes)| Deed::Charge(which, bytes)),
        2 => (which.clone(), bytes).prop_map(|(which, bytes)| Deed::Release(which, bytes)),
        3 => which.clone().prop_map(Deed::Stall),
        1 => which.clone().prop_map(Deed::Progress),
        1 => which.clone().prop_map(Deed::Finish),
        1 => which.prop_map(Deed::Leave),
        2 => Just(Deed::Judge),
    ]
}

proptest! {
    /// Whatever happens, the sums are right, an innocent owner is neither stopped nor ended, and who is ended had
    /// stalled, held something, and belongs to the owner that spent a budget, or held up its carrier for too long.
    #[test]
    fn nobody_pays_for_another(deeds in prop::collection::vec(deed(), 0..200)) {
        let mut ledger = Ledger::new(LIMITS);
        let start = Instant::now();
        let owners = ["a", "b", "c", "d"];
        let mut ids: Vec<Id> = Vec::new();
        for owner in owners {
            for _ in 0..2 {
                let carrier = ledger.carrier(owner);
                ids.push(carrier);
                ids.extend([ledger.stream(carrier), ledger.stream(carrier)]);
            }
        }
        for (step, deed) in deeds.into_iter().enumerate() {
            let now = start + Duration::from_millis(700 * step as u64);
            match deed {
                Deed::Charge(which, bytes) => { ledger.charge(ids[which], bytes); }
                Deed::Release(which, bytes) => { ledger.release(ids[which], bytes); }
                Deed::Stall(which) => ledger.stall(ids[which], now),
                Deed::Progress(which) => ledger.progress(ids[which]),
                Deed::Finish(which) => { ledger.finish(ids[which]); }
                // A carrier outlives its streams.
                Deed::Leave(which) if which % 3 != 0 => { ledger.leave(ids[which]); }
                Deed::Leave(_) => {}
                Deed::Judge => {
                    let greediest = ledger.owners.values().map(|owner| owner.held).max().unwrap_or(0);
                    for (id, reason) in ledger.judge(now) {
                        let holder = &ledger.holders[&id];
                        let owner = &ledger.owners[&holder.owner];
                        prop_assert!(holder.held > 0);
                        prop_assert!(holder.stalled_for(now) >= Some(BREATH));
                        match reason {
                            Reason::OwnerBudget => prop_assert!(owner.held >= LIMITS.owner),
                            Reason::ProcessBudget => {
                                prop_assert!(ledger.total() >= LIMITS.process);
                                prop_assert!(owner.held >= LIMITS.process / 4 || owner.held == greediest);
                            }
                            Reason::Stalled => {
                                prop_assert!(holder.held >= LIMITS.stream && !holder.finished);
                                prop_assert!(holder.stalled_for(now) >= Some(LIMITS.patience));
                            }
                        }
                    }
                }
            }
            prop_assert_eq!(ledger.total(), ledger.holders.values().map(|holder| holder.held).sum::<u64>());
            for (id, owner) in &ledger.owners {
                let held: u64 =
                    ledger.holders.values().filter(|holder| holder.owner == *id).map(|holder| holder.held).sum();
                prop_assert_eq!(owner.held, held);
                prop_assert!(
                    held >= LIMITS.owner || held >= LIMITS.process / 4 || !ledger.owner_has_spent(*id)
                );
            }
            for id in ids.iter().step_by(3) {
                let holds_up = |holder: &Holder| {
                    holder.carrier == *id && !holder.finished && holder.held >= LIMITS.stream
                };
                let held_up =
                    ledger.holders.iter().any(|(stream, holder)| stream != id && holds_up(holder));
                prop_assert_eq!(ledger.may_read(*id), !held_up && !ledger.has_spent(*id));
            }
        }
    }
}
