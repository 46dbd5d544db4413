//! [`Routes`]: mounts and describes an endpoint in one call.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};

use crate::describe::{Method, Operation};

/// Endpoints that share one state.
pub(crate) struct Routes<S> {
    public: Router<S>,
    internal: Router<S>,
    operations: Vec<Operation>,
}

/// Endpoints with their state, per listener, and their descriptions.
#[derive(Default)]
pub(crate) struct Served {
    pub(crate) public: Router,
    pub(crate) internal: Router,
    pub(crate) operations: Vec<Operation>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(crate) fn new() -> Self {
        Self { public: Router::new(), internal: Router::new(), operations: Vec::new() }
    }

    /// Adds an endpoint. Its description decides which listeners serve it.
    pub(crate) fn route<H: Handler<T, S>, T: 'static>(mut self, operation: Operation, handler: H) -> Self {
        let (path, filter) = (operation.path(), filter(operation.method()));
        if operation.is_public() {
            self.public = self.public.route(path, on(filter, handler.clone()));
        }
        if operation.is_internal() {
            self.internal = self.internal.route(path, on(filter, handler));
        }
        self.operations.push(operation);
        self
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.public = self.public.merge(other.public);
        self.internal = self.internal.merge(other.internal);
        self.operations.extend(other.operations);
        self
    }

    /// Their descriptions.
    pub(crate) fn operations(self) -> Vec<Operation> {
        self.operations
    }

    /// Provides the state of all endpoints.
    pub(crate) fn with_state(self, state: S) -> Served {
        Served {
            public: self.public.with_state(state.clone()),
            internal: self.internal.with_state(state),
            operations: self.operations,
        }
    }
}

fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
    }
}
