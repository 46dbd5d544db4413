//! [`Context`]: what an app may use.

use std::sync::Arc;

use fanout::Fanout;

use crate::acks::Acks;
use crate::auth::Tokens;
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
}
