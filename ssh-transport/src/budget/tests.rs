use super::*;

fn budget(process: u64, owner: u64, stream: u64) -> Budget {
    Budget::start(Limits { process, owner, stream, patience: Duration::from_secs(30) })
}

#[tokio::test(start_paused = true)]
async fn the_one_that_stalled_longest_is_told_and_its_room_goes_to_those_who_wait() {
    let budget = budget(1000, 300, 1000);
    let carrier = budget.carrier("me");
    let (first, second) = (carrier.stream(), carrier.stream());
    first.charge(200);
    first.stall();
    sleep(Duration::from_secs(5)).await;
    second.charge(100);
    second.stall();
    assert!(carrier.is_held_up());
    tokio::select! {
        reason = first.evicted() => assert_eq!(reason, Reason::OwnerBudget),
        _ = second.evicted() => panic!("the other stalled longer"),
    }
    let waiting = tokio::spawn({
        let carrier = Arc::clone(&carrier);
        async move { carrier.room().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(first);
    waiting.await.unwrap();
    assert!(!carrier.is_held_up());
    assert_eq!(budget.held(), 100);
}

#[tokio::test]
async fn what_was_lent_comes_back_with_the_last_part_of_it() {
    let budget = budget(1000, 1000, 1000);
    let carrier = budget.carrier("me");
    let lent = carrier.lend(Bytes::from_static(b"0123456789"));
    let part = lent.slice(3..5);
    drop(lent);
    assert_eq!((budget.held(), part.as_ref()), (10, b"34".as_slice()));
    drop(part);
    assert_eq!(budget.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_holds_up_its_carrier_has_patience_to_lose() {
    let budget = budget(1000, 1000, 100);
    let carrier = budget.carrier("me");
    let stream = carrier.stream();
    stream.charge(100);
    stream.stall();
    let began = Instant::now();
    assert_eq!(stream.evicted().await, Reason::Stalled);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(31), "{took:?}");
}
