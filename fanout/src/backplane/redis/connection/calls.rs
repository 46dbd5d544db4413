//! Groups posts into commands: one command for each plain post, and one call of a script for adjacent tracked posts.

use redis::{Cmd, ErrorKind, FromRedisValue as _, Pipeline, RedisError, Value};
use shared::limits::{
    IDEMPOTENCY_S, STREAM_ENTRIES, STREAM_KEPT_S, STREAM_META_KEPT_S, STREAM_RENEWED_S, TRACKED_PER_CALL_MAX,
};

use super::Script;

/// What a server answered: a value, or why it refused.
pub(super) type Answered = Result<Value, RedisError>;

/// A message to be published, or a command that follows earlier messages.
pub(crate) enum Post {
    /// By its own command.
    Plain(Cmd),
    /// With a place in its room, by a script that takes many posts.
    Tracked(Box<TrackedPost>),
}

impl Post {
    /// Publishes a message to a channel, and keeps nothing.
    pub(crate) fn publish(channel: &str, message: &[u8]) -> Self {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(message);
        Self::Plain(publish)
    }

    /// Runs a script on one key.
    pub(crate) fn script(text: &str, key: &str, args: &[&[u8]]) -> Self {
        let mut eval = redis::cmd("EVAL");
        eval.arg(text).arg(1).arg(key).arg(args);
        Self::Plain(eval)
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Plain(cmd) => cmd.args_iter().map(size_of_arg).sum(),
            Self::Tracked(post) => post.bytes(),
        }
    }
}

/// A message that gets a place in its room.
pub(crate) struct TrackedPost {
    /// The key of the room's epoch and offset. All keys of a room are on one server of a cluster.
    pub(crate) meta: String,
    /// The key of what is kept of the room.
    pub(crate) stream: String,
    /// The key of its idempotency.
    pub(crate) once: Option<String>,
    pub(crate) channel: String,
    /// The script appends its place to it.
    pub(crate) message: Vec<u8>,
    /// Whether the lifetimes of the room's keys must be renewed.
    pub(crate) renews: bool,
}

impl TrackedPost {
    fn bytes(&self) -> usize {
        let keys = self.meta.len() + self.stream.len() + self.once.as_ref().map_or(0, String::len);
        keys + self.channel.len() + self.message.len()
    }
}

/// Commands for posts, and how many posts each command is for.
pub(super) struct Calls {
    pub(super) pipeline: Pipeline,
    posts: Vec<Posted>,
}

/// The posts of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Posted {
    Plain,
    /// This many tracked posts.
    Tracked(usize),
}

/// `lua/publish.lua`.
pub(super) struct TrackedScript(Script);

/// Values in the script's reply for each post.
const VALUES: usize = 3;

/// The first value for a post that the server refused.
const REFUSED: Value = Value::Int(2);

impl Default for TrackedScript {
    fn default() -> Self {
        let numbers = [
            ("$entries", STREAM_ENTRIES),
            ("$kept", STREAM_KEPT_S + STREAM_RENEWED_S),
            ("$meta_kept", STREAM_META_KEPT_S + STREAM_RENEWED_S),
            ("$key_kept", IDEMPOTENCY_S),
        ];
        let text = include_str!("../lua/publish.lua").to_owned();
        let filled = |text: String, (name, number): (&str, _)| {
            text.replace(&format!("'{name}'"), &format!("'{number}'"))
        };
        Self(Script::new(numbers.into_iter().fold(text, filled)))
    }
}

impl TrackedScript {
    /// The commands for `posts`, in their order. `run` is the server's process, or empty where the script must ask for it. With
    /// `by_room` a call has posts of one room only, which a cluster needs.
    pub(super) fn calls(&self, posts: Vec<Post>, run: &str, by_room: bool) -> Calls {
        let groups = grouped(posts, by_room);
        // A call whose script the server does not know is repeated. With a plain post behind it, the call carries the script:
        // the repetition would come after the plain post.
        let last_plain =
            groups.iter().rposition(|group| matches!(group, Group::Plain(_))).unwrap_or_default();
        let mut calls = Calls { pipeline: Pipeline::with_capacity(groups.len()), posts: Vec::new() };
        for (place, group) in groups.into_iter().enumerate() {
            let (cmd, posted) = match group {
                Group::Plain(cmd) => (cmd, Posted::Plain),
                Group::Tracked(posts) => {
                    let cmd = self.call(&posts, run);
                    let cmd = if place < last_plain { self.0.whole(&cmd) } else { cmd };
                    (cmd, Posted::Tracked(posts.len()))
                }
            };
            calls.pipeline.add_command(cmd);
            calls.posts.push(posted);
        }
        calls
    }

    fn call(&self, posts: &[TrackedPost], run: &str) -> Cmd {
        // Random, so that no other node has it; 64 bits keep the stamp short.
        let unused = format!("{:016x}", rand::random::<u64>());
        let (mut keys, mut args) = (Vec::with_capacity(3 * posts.len()), vec![run.as_bytes()]);
        args.push(unused.as_bytes());
        for post in posts {
            keys.extend([&*post.meta, &post.stream, post.once.as_deref().unwrap_or(&post.meta)]);
            let renews: &[u8] = if post.renews { b"1" } else { b"0" };
            args.extend([&*post.message, post.channel.as_bytes(), renews]);
        }
        self.0.posted(&keys, &args)
    }

    /// The calls whose script the server does not know, now with the script, and their positions in `calls`.
    pub(super) fn unknown(&self, calls: &Calls, answers: &[Answered]) -> Option<(Pipeline, Vec<usize>)> {
        let is_unknown =
            |answer: &Answered| answer.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT"));
        let (mut again, mut places) = (Pipeline::new(), Vec::new());
        for (place, (cmd, answer)) in calls.pipeline.cmd_iter().zip(answers).enumerate() {
            if is_unknown(answer) {
                again.add_command(self.0.whole(cmd));
                places.push(place);
            }
        }
        (!places.is_empty()).then_some((again, places))
    }
}

impl Calls {
    /// The answer for each post, from the answers for the commands.
    pub(super) fn answers(&self, answers: Vec<Answered>) -> Vec<Answered> {
        let mut all = Vec::with_capacity(self.posts.len());
        for (posted, answer) in self.posts.iter().zip(answers) {
            match posted {
                Posted::Plain => all.push(answer),
                Posted::Tracked(posts) => all.extend(each_of(*posts, answer)),
            }
        }
        all
    }
}

/// The answers for the tracked posts of one call.
fn each_of(posts: usize, answer: Answered) -> Vec<Answered> {
    let values = match answer {
        Ok(Value::Array(values)) if values.len() == VALUES * posts => values,
        Ok(other) => return vec![Ok(other); posts],
        Err(error) => return vec![Err(error); posts],
    };
    let mut values = values.into_iter();
    let mut answers = Vec::with_capacity(posts);
    while let (Some(state), Some(text), Some(receivers)) = (values.next(), values.next(), values.next()) {
        answers.push(if state == REFUSED {
            let why = String::from_redis_value(text).unwrap_or_default();
            Err(RedisError::from((ErrorKind::Client, "a broadcast was refused", why)))
        } else {
            Ok(Value::Array(vec![state, text, receivers]))
        });
    }
    answers
}

fn size_of_arg(arg: redis::Arg<&[u8]>) -> usize {
    match arg {
        redis::Arg::Simple(bytes) => bytes.len(),
        _ => 0,
    }
}

/// Posts of one command.
enum Group {
    Plain(Cmd),
    Tracked(Vec<TrackedPost>),
}

fn grouped(posts: Vec<Post>, by_room: bool) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for post in posts {
        match (post, groups.last_mut()) {
            (Post::Plain(cmd), _) => groups.push(Group::Plain(cmd)),
            (Post::Tracked(post), Some(Group::Tracked(together))) if is_one_of(together, &post, by_room) => {
                together.push(*post);
            }
            (Post::Tracked(post), _) => groups.push(Group::Tracked(vec![*post])),
        }
    }
    groups
}

/// Whether a post may join the others of a call.
fn is_one_of(together: &[TrackedPost], post: &TrackedPost, by_room: bool) -> bool {
    let is_of_room = together.first().is_some_and(|first| first.meta == post.meta);
    together.len() < TRACKED_PER_CALL_MAX && (is_of_room || !by_room)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(room: &str, text: &str) -> Post {
        Post::Tracked(Box::new(TrackedPost {
            meta: format!("{{{room}}}:meta"),
            stream: format!("{{{room}}}:stream"),
            once: None,
            channel: room.to_owned(),
            message: text.into(),
            renews: false,
        }))
    }

    fn plain() -> Post {
        Post::publish("channel", b"plain")
    }

    fn calls(posts: Vec<Post>, by_room: bool) -> Calls {
        TrackedScript::default().calls(posts, "run", by_room)
    }

    /// The names of the commands, and how many keys a script has.
    fn commands(calls: &Calls) -> Vec<String> {
        let text = |arg: redis::Arg<&[u8]>| match arg {
            redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        let name = |cmd: &Cmd| {
            let mut args = cmd.args_iter().map(text);
            let (name, keys) = (args.next().unwrap(), args.nth(1).unwrap());
            if name == "PUBLISH" { name } else { format!("{name} {keys}") }
        };
        calls.pipeline.cmd_iter().map(name).collect()
    }

    #[test]
    fn the_script_has_its_numbers() {
        let whole = TrackedScript::default().0.whole(&Cmd::new());
        let text = whole.args_iter().find_map(|arg| match arg {
            redis::Arg::Simple(text) if text.starts_with(b"--") => {
                Some(String::from_utf8_lossy(text).into_owned())
            }
            _ => None,
        });
        let text = text.unwrap();
        assert!(!text.contains("'$") && text.contains(&format!("'MAXLEN', '~', '{STREAM_ENTRIES}'")));
    }

    #[test]
    fn adjacent_posts_share_a_call_in_their_order() {
        let posts = vec![tracked("a", "1"), tracked("b", "2"), tracked("a", "3")];
        assert_eq!(commands(&calls(posts, false)), ["EVALSHA 9"]);
        let posts = vec![tracked("a", "1"), tracked("a", "2"), tracked("b", "3"), tracked("a", "4")];
        assert_eq!(commands(&calls(posts, true)), ["EVALSHA 6", "EVALSHA 3", "EVALSHA 3"]);
        let many = (0..2 * TRACKED_PER_CALL_MAX + 1).map(|at| tracked("a", &at.to_string())).collect();
        let all = 3 * TRACKED_PER_CALL_MAX;
        let expected = [format!("EVALSHA {all}"), format!("EVALSHA {all}"), "EVALSHA 3".to_owned()];
        assert_eq!(commands(&calls(many, false)), expected);
    }

    #[test]
    fn a_call_before_a_plain_post_is_never_repeated() {
        let posts = vec![tracked("a", "1"), plain(), tracked("a", "2"), tracked("b", "3"), plain(), plain()];
        assert_eq!(commands(&calls(posts, false)), ["EVAL 3", "PUBLISH", "EVAL 6", "PUBLISH", "PUBLISH"]);
        let posts = vec![plain(), tracked("a", "1")];
        assert_eq!(commands(&calls(posts, false)), ["PUBLISH", "EVALSHA 3"]);
    }

    #[test]
    fn every_post_gets_its_answer() {
        let posts = vec![tracked("a", "1"), tracked("b", "2"), plain(), tracked("a", "3"), tracked("a", "4")];
        let calls = calls(posts, false);
        let place = |place: &str| Value::BulkString(place.into());
        let values = vec![
            Value::Int(0),
            place("e:1"),
            Value::Int(2),
            Value::Int(2),
            place("WRONGTYPE"),
            Value::Int(0),
        ];
        let error = RedisError::from((ErrorKind::Io, "away"));
        let answers = calls.answers(vec![Ok(Value::Array(values)), Ok(Value::Int(7)), Err(error)]);
        assert_eq!(answers.len(), 5);
        let first = Value::Array(vec![Value::Int(0), place("e:1"), Value::Int(2)]);
        assert_eq!(answers[0].as_ref().unwrap(), &first);
        assert_eq!(answers[2].as_ref().unwrap(), &Value::Int(7));
        assert!([1, 3, 4].iter().all(|at| answers[*at].is_err()));
    }
}
