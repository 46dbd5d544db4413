//! Passwords (argon2id with the library's recommended cost), and the threads that hash them.
//!
//! A hash takes 19 MiB and tens of milliseconds of a core, and any client can cause one. So there are as many threads
//! for it as cores, less one ([`hashers`]). Each reuses its memory, frees it when idle, and has a lower priority than
//! the threads that serve clients.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use argon2::password_hash::Error;
use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, RECOMMENDED_SALT_LEN, Version};
use shared::limits::{PASSWORD_HASH_NICENESS, PASSWORD_HASHES_AT_ONCE, PASSWORD_MEMORY_KEPT_MS};
use tokio::sync::oneshot;

/// Hashes a password for storage.
///
/// # Errors
/// The library's error; none is known with its default parameters.
pub(crate) fn hash(password: &str) -> Result<String, Error> {
    let (argon2, salt) = (Argon2::default(), Salt::new(&rand::random::<[u8; RECOMMENDED_SALT_LEN]>())?);
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    let (mut memory, blocks) = (Memory::default(), argon2.params().block_count());
    argon2.hash_password_into_with_memory(password.as_bytes(), &salt, &mut output, memory.blocks(blocks))?;
    let hash = PasswordHash {
        algorithm: Algorithm::default().ident(),
        version: Some(Version::default().into()),
        params: ParamsString::try_from(argon2.params())?,
        salt: Some(salt),
        hash: Some(Output::new(&output)?),
    };
    Ok(hash.to_string())
}

/// The memory that a hash works in.
#[derive(Debug, Default)]
struct Memory(Vec<Block>);

impl Memory {
    /// glibc's allocator maps every allocation above 32 MiB separately and unmaps it when it is freed. It does so only
    /// once with 19 MiB: then it raises its threshold, keeps freed blocks of that size, and does not reuse them for
    /// aligned allocations, so that each hash made the process 19 MiB larger. Unwritten pages take no memory.
    const BLOCKS_MIN: usize = 33 * 1_024;

    fn blocks(&mut self, count: usize) -> &mut [Block] {
        if self.0.len() < count {
            *self = Self(Vec::with_capacity(count.max(Self::BLOCKS_MIN)));
            self.0.resize(count, Block::new());
        }
        &mut self.0
    }
}

/// Whether `password` matches the hash `stored`. Takes the same time in both cases.
fn matches(password: &str, stored: &str, memory: &mut Memory) -> bool {
    let Ok(stored) = PasswordHash::new(stored) else { return false };
    let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else { return false };
    let Ok(algorithm) = Algorithm::try_from(stored.algorithm.as_str()) else { return false };
    let Ok(version) = stored.version.map(Version::try_from).transpose() else { return false };
    let Ok(params) = Params::try_from(&stored) else { return false };
    let blocks = memory.blocks(params.block_count());
    let argon2 = Argon2::new(algorithm, version.unwrap_or_default(), params);
    let mut output = vec![0; expected.len()];
    let hashed = argon2.hash_password_into_with_memory(password.as_bytes(), salt, &mut output, blocks);
    // Compares every byte, so the time does not reveal where they differ.
    let differ = output.iter().zip(expected.as_bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    hashed.is_ok() && differ == 0
}

/// A password to compare.
struct Job {
    password: String,
    stored: Arc<str>,
    done: oneshot::Sender<bool>,
}

/// A hashing thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Hasher(SyncSender<Job>);

/// Starts the threads: one fewer than cores, at least one.
///
/// # Errors
/// If the system provides no thread.
pub(crate) fn hashers() -> std::io::Result<Vec<Hasher>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (0..(cores - 1).clamp(1, PASSWORD_HASHES_AT_ONCE)).map(|_| Hasher::start()).collect()
}

impl Hasher {
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, todo) = sync_channel(1);
        std::thread::Builder::new().name("passwords".to_owned()).spawn(move || work(&todo))?;
        Ok(Self(jobs))
    }

    /// Whether `password` matches the hash `stored`; `None` if the thread failed. A hasher handles one password at a
    /// time.
    pub(crate) async fn matches(&self, password: String, stored: Arc<str>) -> Option<bool> {
        let (done, answer) = oneshot::channel();
        self.0.try_send(Job { password, stored, done }).ok()?;
        answer.await.ok()
    }
}

fn work(todo: &Receiver<Job>) {
    lower_priority();
    let kept = Duration::from_millis(PASSWORD_MEMORY_KEPT_MS);
    let mut memory = Memory::default();
    loop {
        let next = if memory.0.is_empty() {
            todo.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            todo.recv_timeout(kept)
        };
        match next {
            Ok(Job { password, stored, done }) => {
                // A panic of the library must not end the thread; the caller notices the missing answer.
                if let Ok(same) = catch_unwind(AssertUnwindSafe(|| matches(&password, &stored, &mut memory)))
                {
                    let _ = done.send(same);
                }
            }
            Err(RecvTimeoutError::Timeout) => memory = Memory::default(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// On Linux the nice value applies to a single thread. Elsewhere the threads compete as equals.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, PASSWORD_HASH_NICENESS) {
        tracing::debug!(%error, "could not lower the priority of a hashing thread");
    }
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};

    use super::*;

    #[test]
    fn a_password_matches_its_own_hash_only() {
        let stored = hash("correct horse").unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(Argon2::default().verify_password(b"correct horse", stored.as_str()).is_ok());
        assert_ne!(stored, hash("correct horse").unwrap());
        let mut memory = Memory::default();
        for _ in 0..2 {
            assert!(matches("correct horse", &stored, &mut memory));
            assert!(!matches("battery staple", &stored, &mut memory));
        }
        assert!(!matches("correct horse", "not a hash", &mut memory));
    }

    #[test]
    fn hashes_of_other_costs_are_read_as_they_were_made() {
        let mut memory = Memory::default();
        for (kib, passes, lanes) in [(8, 1, 1), (64, 2, 4), (40 * 1_024, 1, 1)] {
            let params = Params::new(kib, passes, lanes, Some(16)).unwrap();
            let made = Argon2::from(params).hash_password(b"correct horse").unwrap().to_string();
            assert!(matches("correct horse", &made, &mut memory), "{made}");
            assert!(!matches("battery staple", &made, &mut memory), "{made}");
        }
    }

    #[tokio::test]
    async fn a_thread_answers_one_after_the_other() {
        let hasher = Hasher::start().unwrap();
        let stored: Arc<str> = hash("correct horse").unwrap().into();
        assert_eq!(hasher.matches("correct horse".into(), Arc::clone(&stored)).await, Some(true));
        assert_eq!(hasher.matches("battery staple".into(), stored).await, Some(false));
    }
}
