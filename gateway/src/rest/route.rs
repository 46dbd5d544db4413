//! [`Routes`]: endpoints that are mounted and described by one call.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};

use crate::describe::{Method, Operation};

/// Endpoints of one state.
pub(crate) struct Routes<S> {
    public: Router<S>,
    internal: Router<S>,
    operations: Vec<Operation>,
}

/// Endpoints that can be served: on the public listener, on the internal one, and what they are.
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

    /// An endpoint: what it is, and what answers it. The description says by which listener it is served.
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

    /// These, and others.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.public = self.public.merge(other.public);
        self.internal = self.internal.merge(other.internal);
        self.operations.extend(other.operations);
        self
    }

    /// What they are.
    pub(crate) fn operations(self) -> Vec<Operation> {
        self.operations
    }

    /// Gives all of them the state that they share.
    pub(crate) fn with_state(self, state: S) -> Served {
        Served {
            public: self.public.with_state(state.clone()),
            internal: self.internal.with_state(state),
            operations: self.operations,
        }
    }
}

/// The method as the router has it.
fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
    }
}
