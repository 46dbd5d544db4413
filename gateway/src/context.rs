//! [`Context`]: what an app may use.

use std::sync::Arc;

use fanout::Fanout;

use shared::config::AppSettings;

use crate::access::AccessLocks;
use crate::acks::Acks;
use crate::auth::Tokens;
use crate::error::AppError;
use crate::jobs::Jobs;
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
    pub(crate) acks: Arc<Acks>,
    pub(crate) access: Arc<AccessLocks>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) pusher: Pusher,
    pub(crate) settings: Arc<AppSettings>,
    /// What backends show to the internal API, where one is set.
    pub(crate) internal_token: Option<Arc<str>>,
}

impl Context {
    /// Runs a story to its end, though whoever asked for it may go.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        story: impl Future<Output = Result<T, AppError>> + Send + 'static,
    ) -> Result<T, AppError> {
        self.tasks.spawn(story).await.unwrap_or_else(|error| Err(AppError::internal(&error)))
    }
}

#[cfg(test)]
impl Context {
    /// What apps of a test may use: a node alone with these namespaces, records in memory and the settings' defaults.
    pub(crate) async fn alone(namespaces: &[shared::names::Namespace]) -> Self {
        let auth = shared::config::AuthConfig {
            keys: shared::config::TokenKeys::Random,
            issuers: Vec::new(),
            audiences: Vec::new(),
            user_claim: None,
            errors: shared::config::AuthErrors::Plain,
            errors_by_namespace: Vec::new(),
            internal_token: None,
        };
        let (fanout, _events) = Fanout::new(fanout::FanoutOptions {
            node: shared::ids::NodeId::from_random([0; 4]),
            namespaces: namespaces.to_vec(),
            flushers: 1,
            send_queue: fanout::SendQueueLimits { bytes: 0, packets: 0 },
            rooms_per_socket: 0,
            sockets_per_user: 0,
            holdback: std::time::Duration::ZERO,
            cluster: None,
            distributions: crate::metrics::distributions(),
        });
        let records = Records::open("sqlite::memory:").await.unwrap();
        let tasks = Tasks::default();
        let jobs = Jobs::new(fanout.clone(), records.clone(), tasks.clone());
        Self {
            fanout,
            records,
            tokens: Arc::new(Tokens::new(&auth, || "secret".to_owned()).unwrap()),
            tasks,
            acks: Arc::default(),
            access: Arc::default(),
            jobs,
            pusher: Pusher::default(),
            settings: Arc::default(),
            internal_token: None,
        }
    }
}
