//! Serves one stream: dials for its owner, answers, relays, and records its life, whatever carries it.

use std::{
    sync::Arc,
    time::{Instant as Moment, SystemTime},
};

use ssh_transport::{
    relay::{Account, End, relay},
    streams::{Ending, Requested, Stream},
};
use tokio::time::{Instant, sleep};
use tunnel_stream::{Code, Reason};

use super::{
    super::{
        Service,
        forward::{Refusal, Request, Stopped, code, decide, dial, evicted, metered},
        warn_of_eviction,
    },
    held::{Granted, Held},
};
use crate::{
    access::{self, Denied},
    audit::{Event, Route, Traffic},
    dial::Dialled,
    limits::{bandwidth::Bandwidth, identities::ChannelGrant},
};

/// Serves a stream until it ends.
pub(super) async fn serve(held: Arc<Held>, service: Arc<Service>, requested: Requested) {
    let Requested { request, stream } = requested;
    let request = Request { host: request.host, port: request.port.into() };
    let opened = tokio::select! {
        opened = open(&held, &service, &request) => opened,
        _ = held.streams().ended() => Err(Refusal::SessionEnded),
    };
    match opened {
        Ok((dialled, flow)) => carry(&held, &service, &request, dialled, flow, stream).await,
        Err(refusal) => {
            let owner = held.owner();
            let (host, port, rule) = (request.host.as_str(), request.port, refusal.rule());
            let route = Route { host, port, address: None, rule };
            service.metrics.forward_refused(refusal.code());
            owner.forwards.refusals().forward(&owner.admitted.identity, route, refusal.code());
            let (kind, text) = refusal.told();
            let code = u16::try_from(kind.code()).map_or(Code::CONNECT_FAILED, Code);
            stream.fate.refuse(&Reason::new(code, text));
        }
    }
}

/// Waits for the stream's turn, decides, and dials.
async fn open(
    held: &Held,
    service: &Service,
    request: &Request,
) -> Result<(Dialled, Option<Arc<Bandwidth>>), Refusal> {
    let owner = held.owner();
    let turn = owner.admitted.slot.open(Moment::now());
    let ChannelGrant { wait, waiting, flow } = turn.map_err(|_| Refusal::RateExceeded)?;
    if !wait.is_zero() {
        sleep(wait).await;
    }
    drop(waiting);
    // The decision follows the wait, during which the rules or the owner's certificate may have changed.
    let candidate = decide(service, &held.owner().admitted.identity, request)?;
    Ok((dial(service, candidate).await?, flow))
}

async fn carry(
    held: &Held,
    service: &Service,
    request: &Request,
    dialled: Dialled,
    flow: Option<Arc<Bandwidth>>,
    stream: Stream,
) {
    let Dialled { socket, address, permit } = dialled;
    let Stream { source, sink, fate, budget } = stream;
    let active = service.metrics.channel();
    service.metrics.forward_opened();
    let granted = held.grant(permit, address, fate.clone());
    let route = |rule| Route {
        host: &request.host,
        port: request.port,
        address: Some(address.ip()),
        rule: Some(rule),
    };
    let permit = granted.permit.borrow().clone();
    let session = held.owner().forwards.session();
    let event = Event::ForwardOpened { identity: permit.identity(), route: route(permit.rule()) };
    service.audit.record(session, event);
    fate.accept();

    let began = Instant::now();
    let account = flow.map_or_else(Account::default, |flow| Account::paced(flow));
    let mut stopped = None;
    let stop = async { stopped = Some(must_stop(held, service, &granted).await) };
    let relay = relay(socket, source, sink, &account, budget.get(), stop);
    let count = |traffic: Traffic| held.owner().forwards.count(traffic);
    let end = metered(service, &account, count, relay).await;
    held.forget(fate.id());
    drop(active);
    let permit = granted.permit.borrow().clone();
    if let End::Evicted(reason) = end {
        warn_of_eviction(permit.identity(), Some(request), reason, evicted(reason));
        service.metrics.evicted(evicted(reason));
    }
    let reason = match (end, fate.ending()) {
        (End::Closed | End::Lost | End::Stopped, Some((Ending::Here, reason))) => match &stopped {
            Some(Stopped::Denied(denied)) => denied.code(),
            Some(Stopped::SessionEnded) | None => reason.code().name(),
        },
        _ => code(end, stopped),
    };
    let traffic =
        Traffic { sent: account.to_socket(), received: account.from_socket(), duration: began.elapsed() };
    let event =
        Event::ForwardClosed { identity: permit.identity(), route: route(permit.rule()), traffic, reason };
    service.audit.record(held.owner().forwards.session(), event);
}

/// Waits until a stream's permit is void: the association ends, the current policy would not grant it again,
/// or did not when its owner logged in again.
async fn must_stop(held: &Held, service: &Service, granted: &Granted) -> Stopped {
    let mut policy = service.policy.subscribe();
    loop {
        let current = Arc::clone(&policy.borrow_and_update());
        let permit = granted.permit.borrow().clone();
        // Its owner may have logged in anew while it was dialled.
        let identity = &held.owner().admitted.identity;
        // A certificate may expire while its streams wait for the next; that ends them in its own time.
        match access::reauthorize_for(&current, &permit, identity, granted.address, SystemTime::now()) {
            Ok(permit) => {
                granted.permit.send_replace(permit);
            }
            Err(Denied::Expired) => {}
            Err(denied) => {
                granted.deny(denied.clone());
                return Stopped::Denied(denied);
            }
        }
        tokio::select! {
            _ = held.streams().ended() => return Stopped::SessionEnded,
            denied = granted.denied() => return Stopped::Denied(denied),
            // The sender lives as long as the service, which outlives every stream.
            _ = policy.changed() => {}
        }
    }
}
