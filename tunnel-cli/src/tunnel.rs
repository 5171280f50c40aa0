//! Holds local ports open and forwards them, for as long as the user wants: whatever happens to the bastion, another
//! connection to it is made.

mod carrier;
mod dialler;
mod listener;
mod liveness;
mod port_owner;
mod state;
mod supervisor;

use std::{sync::Arc, time::Duration};

use backoff::Trouble;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    credential::Credentials,
    failure::Failure,
    output::{Event, Link, Output, Status},
    suspend::Clocks,
};
pub(crate) use dialler::Dialler;
pub(crate) use listener::{Bound, Listener};
use state::TunnelState;
use supervisor::CarrierSupervisor;

/// Between two drawings of the status line.
const REDRAW: Duration = Duration::from_millis(500);
/// How long streams and the bastion have to notice the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Everything a tunnel needs.
pub(crate) struct Tunnel {
    /// Bound local ports.
    pub listeners: Vec<Listener>,
    /// Reaches the bastion.
    pub dialler: Dialler,
    /// Gets certificates.
    pub credentials: Arc<Credentials>,
    /// Says what happens.
    pub output: Arc<Output>,
    /// How it behaves.
    pub options: RunOptions,
}

/// How a tunnel behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunOptions {
    /// How long a local connection waits for the bastion.
    pub hold: Duration,
    /// Whether the first failure is the end.
    pub once: bool,
    /// Whether each destination is tried once before the tunnel says that it is ready.
    pub probe: bool,
    /// Whether a destination that does not answer that is the end.
    pub target_must_answer: bool,
}

impl Tunnel {
    /// Runs until `stop` is cancelled. `ready` hears when the first byte can flow.
    ///
    /// # Errors
    /// A failure that no other attempt can mend; with `once`, the first failure.
    pub(crate) async fn run(
        self,
        stop: CancellationToken,
        ready: Option<oneshot::Sender<()>>,
    ) -> Result<(), Failure> {
        let ended = stop.child_token();
        let state = Arc::new(TunnelState::new(ended.clone()));
        let Self { listeners, dialler, credentials, output, options } = self;
        let forwards: Vec<Bound> = listeners.iter().map(|listener| listener.bound().clone()).collect();
        for Bound { listen, addresses, destination } in &forwards {
            output.say(&Event::Listening { listen: *listen, addresses, destination });
        }
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(listener.serve(Arc::clone(&state), Arc::clone(&output), options.hold));
        }
        tasks.spawn(draw(Arc::clone(&state), Arc::clone(&output), forwards.clone()));
        let mut supervisor = CarrierSupervisor {
            state: Arc::clone(&state),
            dialler,
            credentials,
            output: Arc::clone(&output),
            options,
            forwards,
            ready,
            said_ready: false,
            outage: Trouble::default(),
            renewal: Trouble::default(),
            lost_at: None,
            streams: None,
            resumed: 0,
            wants_another: None,
        };
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            failed = supervisor.run() => match failed {
                Ok(never) => match never {},
                Err(failure) => Err(failure),
            },
        };
        // Listeners first, so that nothing new begins; then the streams, each with a reset; then the bastion.
        tasks.abort_all();
        ended.cancel();
        let _ = timeout(GOODBYE, async {
            while state.open() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        if let Some(carrier) = state.present() {
            state.publish(None);
            carrier.close().await;
        }
        output.clear();
        result
    }
}

/// Redraws the status line where there is one.
async fn draw(state: Arc<TunnelState>, output: Arc<Output>, forwards: Vec<Bound>) {
    if !output.redraws() {
        return;
    }
    let title = match forwards.as_slice() {
        [Bound { listen, destination, .. }] => format!("{listen} → {destination}"),
        several => format!("{} forwards", several.len()),
    };
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        redraw.tick().await;
        let shown = state.shown();
        let carrier = state.present();
        let link = match shown.link {
            Link::Up(_) => Link::Up(carrier.as_ref().and_then(|carrier| carrier.answer_time())),
            Link::Away { tries, next, reason } => {
                let next = shown.next.map_or(next, |next| next.saturating_duration_since(Instant::now()));
                Link::Away { tries, next, reason }
            }
            Link::Connecting => Link::Connecting,
            Link::SigningIn => continue,
        };
        output.draw(&Status {
            forwards: title.clone(),
            link,
            open: state.open(),
            waiting: state.waiting(),
            received: state.account().to_socket(),
            sent: state.account().from_socket(),
            certificate: carrier.map(|carrier| carrier.held().validity.left(&Clocks::now())),
        });
    }
}
