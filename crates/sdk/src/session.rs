//! A session that stands: beats, and asking again when the bridge went away.

use std::sync::Arc;

use enclave_bridge_net::HybridGuest;
use enclave_bridge_proto::Environment;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::Error;
use crate::beats::until_over;
use crate::bridge::{Granted, OwnedScope, Said, Terms};
use crate::handshake::Failure;

/// How a session is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionState {
    /// Granted: every port accepts.
    Ready,
    /// The bridge went away or fell silent; the session is being set up again.
    Reconnecting {
        /// Why, for people.
        reason: Arc<str>,
    },
    /// The bridge refused to set it up again. It is asked again, every 5 s at the latest.
    Refused {
        /// The refusal; [`Error::code`] has the bridge's word.
        error: Arc<Error>,
    },
    /// Shut down.
    Closed,
}

/// A session with the bridge. It lives until it is shut down or dropped: when the bridge goes away and comes back, the
/// same is asked for again, while the program, its listeners and its keys live on. The streams of the old session end
/// with it.
pub struct Session {
    scope: OwnedScope,
    state: watch::Receiver<SessionState>,
    environment: watch::Receiver<Arc<Environment>>,
    _guest: Option<HybridGuest>,
}

impl Session {
    pub(crate) fn begin(terms: Terms, granted: Granted, guest: Option<HybridGuest>, scope: OwnedScope) -> Self {
        let (state, state_seen) = watch::channel(SessionState::Ready);
        let (environment, environment_seen) = watch::channel(Arc::new(granted.environment.clone()));
        let state = State(state);
        let until = scope.0.clone();
        scope.0.spawn("session", async move {
            tokio::select! {
                biased;
                () = until.cancelled() => {}
                () = keep(terms, granted, &state, &environment) => {}
            }
        });
        Self { scope, state: state_seen, environment: environment_seen, _guest: guest }
    }

    /// The host's environment as it was sent last. After the bridge has come back this may be another than
    /// [`Bridge::environment`](crate::Bridge::environment) was.
    #[must_use]
    pub fn environment(&self) -> Arc<Environment> {
        Arc::clone(&self.environment.borrow())
    }

    /// The host's environment, to be told when a new one was sent.
    #[must_use]
    pub fn environment_changes(&self) -> watch::Receiver<Arc<Environment>> {
        self.environment.clone()
    }

    /// How the session is, to be told when it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.state.clone()
    }

    /// Resolves while the session is ready, and as soon as it is again.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn ready(&self) -> Result<(), Error> {
        let mut state = self.state.clone();
        let settled = |state: &SessionState| matches!(state, SessionState::Ready | SessionState::Closed);
        match state.wait_for(settled).await.as_deref() {
            Ok(SessionState::Ready) => Ok(()),
            _ => Err(Error::Closed),
        }
    }

    /// Resolves when the session is shut down.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.state.clone();
        async move {
            // An error means that the session's task is gone, which is the same.
            drop(state.wait_for(|state| matches!(state, SessionState::Closed)).await);
        }
    }

    /// Ends the session and waits until nothing of it runs any more. The bridge notices by the missing beats; streams
    /// that are open stay so.
    pub async fn shutdown(self) {
        self.scope.0.cancel();
        self.scope.0.join().await;
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Session").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

/// Says that the session is closed however its task ends.
struct State(watch::Sender<SessionState>);

impl Drop for State {
    fn drop(&mut self) {
        self.0.send_replace(SessionState::Closed);
    }
}

async fn keep(mut terms: Terms, granted: Granted, state: &State, environment: &watch::Sender<Arc<Environment>>) {
    let mut id = granted.id;
    loop {
        tracing::info!("session ready");
        let reason = until_over(&terms.options, id, &mut terms.pace).await;
        tracing::warn!("session lost: {reason}");
        state.0.send_replace(SessionState::Reconnecting { reason: reason.into() });
        let granted = again(&mut terms, state).await;
        id = granted.id;
        environment.send_replace(Arc::new(granted.environment));
        state.0.send_replace(SessionState::Ready);
    }
}

async fn again(terms: &mut Terms, state: &State) -> Granted {
    let mut said = Said::default();
    loop {
        let failure = match terms.attempt(None).await {
            Ok(granted) => return granted,
            Err(failure) => failure,
        };
        said.once(failure.error());
        let pause = failure.pause(&mut terms.pace);
        state.0.send_replace(match failure {
            Failure::Refused(error) => SessionState::Refused { error: Arc::new(error) },
            Failure::Absent(error) | Failure::Broken(error) => {
                SessionState::Reconnecting { reason: error.to_string().into() }
            }
        });
        sleep(pause).await;
    }
}
