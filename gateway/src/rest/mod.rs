//! The building blocks of the HTTP APIs: endpoints with their descriptions ([`Routes`]), callers ([`User`],
//! [`InternalCaller`]), extractors ([`JsonBody`], [`Names`], [`Paged`], [`Around`]) and answers ([`reply`]). The
//! node's own endpoints and those of apps use the same.

mod body;
mod caller;
mod query;
pub(crate) mod reply;
mod route;

use std::sync::Arc;

use crate::context::Context;
pub(crate) use body::{Carrier, Carries, Held, JsonBody, MaybeJsonBody, read_json};
pub(crate) use caller::{InternalCaller, User, is_internal, key_of};
pub(crate) use query::{Around, AroundQuery, Names, PageQuery, Paged};
pub(crate) use route::{Routes, Served};

/// The state of routes, as far as the extractors need it.
pub(crate) trait HasContext {
    fn context(&self) -> &Context;
}

impl<T: HasContext> HasContext for Arc<T> {
    fn context(&self) -> &Context {
        (**self).context()
    }
}
