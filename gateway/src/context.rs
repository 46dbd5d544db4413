//! [`Context`]: what an app may use.

use std::sync::Arc;

use fanout::Fanout;

use shared::config::AppsConfig;

use crate::access::AccessLocks;
use crate::acks::Acks;
use crate::announce::Announcer;
use crate::auth::Tokens;
use crate::error::AppError;
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
    pub(crate) announcer: Arc<Announcer>,
    pub(crate) pusher: Pusher,
    pub(crate) settings: Arc<AppsConfig>,
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
