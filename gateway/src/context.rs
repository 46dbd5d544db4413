//! [`Context`]: what an app may use.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use fanout::{Fanout, FanoutOptions, SendQueueLimits};
use shared::config::{AppSettings, AuthConfig, AuthErrors, TokenKeys};
use shared::ids::NodeId;
use shared::names::Namespace;

use crate::access::AccessLocks;
use crate::acks::Acks;
use crate::auth::Tokens;
use crate::error::AppError;
use crate::jobs::Jobs;
use crate::metrics;
use crate::push::Pusher;
use crate::records::Records;
use crate::tasks::Tasks;

/// The node's capabilities, for apps and routes. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) fanout: Fanout,
    pub(crate) records: Records,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) tasks: Tasks,
    pub(crate) acks: Acks,
    pub(crate) access: Arc<AccessLocks>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) pusher: Pusher,
    pub(crate) settings: Arc<AppSettings>,
    /// The token that backends present to the internal API, if one is configured.
    pub(crate) internal_token: Option<Arc<str>>,
}

impl Context {
    /// Runs an operation to completion, even if the caller disconnects.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        story: impl Future<Output = Result<T, AppError>> + Send + 'static,
    ) -> Result<T, AppError> {
        self.tasks.spawn(story).await.unwrap_or_else(|error| Err(AppError::internal(&error)))
    }
}

impl Context {
    /// A context for describing apps without serving clients: a node alone with these namespaces, records in memory and
    /// default settings.
    ///
    /// # Errors
    /// When the records cannot be opened.
    pub(crate) async fn detached(namespaces: &[Namespace]) -> Result<Self, Box<dyn Error>> {
        let auth = AuthConfig {
            keys: TokenKeys::Random,
            issuers: Vec::new(),
            audiences: Vec::new(),
            user_claim: None,
            errors: AuthErrors::Plain,
            errors_by_namespace: Vec::new(),
            internal_token: None,
        };
        let (fanout, _events) = Fanout::new(FanoutOptions {
            node: NodeId::from_random([0; 4]),
            namespaces: namespaces.to_vec(),
            flushers: 1,
            send_queue: SendQueueLimits { bytes: 0, packets: 0 },
            rooms_per_socket: 0,
            sockets_per_user: 0,
            holdback: Duration::ZERO,
            cluster: None,
            distributions: metrics::distributions(),
        });
        let records = Records::open("sqlite::memory:").await?;
        let tasks = Tasks::default();
        let jobs = Jobs::new(fanout.clone(), records.clone(), tasks.clone());
        Ok(Self {
            fanout,
            records,
            tokens: Arc::new(Tokens::new(&auth, || "secret".to_owned())?),
            tasks,
            acks: Acks::default(),
            access: Arc::default(),
            jobs,
            pusher: Pusher::default(),
            settings: Arc::default(),
            internal_token: None,
        })
    }

    /// A context for tests of apps.
    #[cfg(test)]
    pub(crate) async fn alone(namespaces: &[Namespace]) -> Self {
        Self::detached(namespaces).await.unwrap()
    }
}
