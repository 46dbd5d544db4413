//! [`Operation`]: one method of one path.

use schemars::JsonSchema;

use super::{Shape, Text, shape};

/// Who serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listener {
    Public,
    Internal,
    Both,
}

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Get,
    Post,
    Put,
    Patch,
}

impl Method {
    /// Its name as OpenAPI writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Patch => "patch",
        }
    }
}

/// Who may call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Anyone,
    User,
    Backend,
}

/// What a request carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Body {
    pub(super) shape: Shape,
    pub(super) required: bool,
}

/// What a success carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Json(Shape),
    /// Something else, by its media type.
    Other(&'static str),
}

#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: Text,
    pub(super) content: Content,
}

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(super) id: &'static str,
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) summary: Text,
    pub(super) detail: Option<Text>,
    pub(super) listener: Listener,
    pub(super) caller: Caller,
    pub(super) query: Option<Shape>,
    pub(super) headers: Vec<(&'static str, Text)>,
    pub(super) body: Option<Body>,
    pub(super) answers: Vec<Answer>,
    pub(super) refusals: Vec<(u16, Text)>,
    pub(super) is_hidden: bool,
}

impl Operation {
    fn new(method: Method, path: &'static str, summary: impl Into<Text>) -> Self {
        Self {
            id: "",
            method,
            path,
            summary: summary.into(),
            detail: None,
            listener: Listener::Public,
            caller: Caller::Anyone,
            query: None,
            headers: Vec::new(),
            body: None,
            answers: Vec::new(),
            refusals: Vec::new(),
            is_hidden: false,
        }
    }

    /// A part of a page for people, which no document lists.
    pub(crate) fn hidden(mut self) -> Self {
        self.is_hidden = true;
        self
    }

    pub(crate) fn method(&self) -> Method {
        self.method
    }

    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    /// Whether it wants a user's token.
    #[cfg(test)]
    pub(crate) fn is_of_user(&self) -> bool {
        self.caller == Caller::User
    }

    /// Whether the public listener serves it.
    pub(crate) fn is_public(&self) -> bool {
        self.listener != Listener::Internal
    }

    /// Whether the internal listener serves it.
    pub(crate) fn is_internal(&self) -> bool {
        self.listener != Listener::Public
    }

    /// A GET on `path`, which is written as the router has it.
    pub(crate) fn get(path: &'static str, summary: impl Into<Text>) -> Self {
        Self::new(Method::Get, path, summary)
    }

    pub(crate) fn post(path: &'static str, summary: impl Into<Text>) -> Self {
        Self::new(Method::Post, path, summary)
    }

    pub(crate) fn put(path: &'static str, summary: impl Into<Text>) -> Self {
        Self::new(Method::Put, path, summary)
    }

    pub(crate) fn patch(path: &'static str, summary: impl Into<Text>) -> Self {
        Self::new(Method::Patch, path, summary)
    }

    /// The method's name in generated clients: a verb and a noun, for example `listMembers`.
    pub(crate) fn id(mut self, id: &'static str) -> Self {
        self.id = id;
        self
    }

    /// What the summary leaves open.
    pub(crate) fn detail(mut self, text: impl Into<Text>) -> Self {
        self.detail = Some(text.into());
        self
    }

    /// Wants a user's token.
    pub(crate) fn of_user(mut self) -> Self {
        self.caller = Caller::User;
        self
    }

    /// For backends, on the internal listener.
    pub(crate) fn of_backend(mut self) -> Self {
        self.caller = Caller::Backend;
        self.listener = Listener::Internal;
        self
    }

    /// On the internal listener, for anyone who reaches it.
    pub(crate) fn internal(mut self) -> Self {
        self.listener = Listener::Internal;
        self
    }

    /// On both listeners.
    pub(crate) fn on_both(mut self) -> Self {
        self.listener = Listener::Both;
        self
    }

    /// The query: a struct whose fields are the parameters.
    pub(crate) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(shape::<T>());
        self
    }

    /// A header that may be sent.
    pub(crate) fn header(mut self, name: &'static str, text: impl Into<Text>) -> Self {
        self.headers.push((name, text.into()));
        self
    }

    /// The JSON body.
    pub(crate) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(Body { shape: shape::<T>(), required: true });
        self
    }

    /// A JSON body that may be left out.
    pub(crate) fn maybe_body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(Body { shape: shape::<T>(), required: false });
        self
    }

    /// A JSON answer.
    pub(crate) fn answer<T: JsonSchema>(mut self, status: u16, text: impl Into<Text>) -> Self {
        self.answers.push(Answer { status, text: text.into(), content: Content::Json(shape::<T>()) });
        self
    }

    /// An answer that is no JSON of ours.
    pub(crate) fn file(mut self, media: &'static str, text: impl Into<Text>) -> Self {
        self.answers.push(Answer { status: 200, text: text.into(), content: Content::Other(media) });
        self
    }

    /// A refusal of its own, beside those that come with its body and its caller.
    pub(crate) fn refuse(mut self, status: u16, error: impl Into<Text>) -> Self {
        self.refusals.push((status, error.into()));
        self
    }

    /// Several refusals of one status.
    pub(crate) fn refuse_all(mut self, status: u16, errors: &[&'static str]) -> Self {
        self.refusals.extend(errors.iter().map(|error| (status, Text::Borrowed(error))));
        self
    }

    /// Everything it refuses, by status and in the order of the checks.
    pub(super) fn all_refusals(&self) -> Vec<(u16, Text)> {
        let mut all: Vec<(u16, Text)> = Vec::new();
        match self.caller {
            Caller::Anyone => {}
            Caller::User => {
                for error in ["Unauthorized - User ID required", "Invalid token", "Token expired"] {
                    all.push((401, error.into()));
                }
            }
            Caller::Backend => all.push((403, "Internal requests only".into())),
        }
        if self.body.is_some() {
            all.extend([
                (400, "Body is not valid JSON".into()),
                (400, "Body is nested too deep".into()),
                (400, "Invalid body: …".into()),
                (408, "Request took too long".into()),
                (413, "Body too large (max … bytes)".into()),
                (415, "Expected Content-Type: application/json".into()),
            ]);
        }
        all.extend(self.refusals.iter().cloned());
        if self.caller != Caller::Anyone || self.body.is_some() {
            all.push((503, "Service temporarily unavailable".into()));
            all.push((500, "Internal error".into()));
        }
        all
    }
}
