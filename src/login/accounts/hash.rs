//! Passwords and their argon2id hashes, checked on threads of their own.
//!
//! A hash is meant to be dear, so there is a bounded queue in front of `THREADS` threads, and nobody waits longer than
//! `CHECK_TIMEOUT`. A password never prints and is never kept.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argon2::password_hash::phc::{Output, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordHash, PasswordVerifier, Version};
use tokio::sync::oneshot;

use crate::types::Redacted;

/// What new hashes cost (OWASP): KiB of memory, passes, lanes.
const NEW_COST: (u32, u32, u32) = (19 * 1024, 2, 1);
/// Most that a hash of a users file may cost: `THREADS` of them run at once.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
/// Bytes of a hash; shorter ones are too easily met by chance.
const OUTPUT_BYTES_MIN: usize = 16;
const NEW_OUTPUT_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// Bytes of a password.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Hashes computed at once.
const THREADS: usize = 2;
/// Passwords waiting for their turn.
const QUEUE_MAX: usize = 32;
/// How long a password may wait for its turn and be checked.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// An argon2id hash that may be checked against.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hash(Redacted<PasswordHash>);

/// Where passwords are checked; the threads end when this is gone.
#[derive(Debug)]
pub struct Checker {
    queue: SyncSender<Job>,
}

#[derive(Debug)]
struct Job {
    password: Redacted<String>,
    hash: Hash,
    answer: oneshot::Sender<bool>,
}

/// Too many passwords at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Busy;

impl Hash {
    /// Of a PHC string. The error says what is wrong with it, never what it holds.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = PasswordHash::new(text).map_err(|_may_quote| {
            "is no hash in PHC format (`$argon2id$v=19$m=…`); set it with `cedargate user passwd`".to_owned()
        })?;
        if parsed.algorithm != ARGON2ID_IDENT {
            return Err("is a hash of another kind than argon2id; set it with `cedargate user passwd`".to_owned());
        }
        let version = parsed.version.unwrap_or(Version::V0x13.into());
        if Version::try_from(version).is_err() {
            return Err("has a version of argon2 that is not known here".to_owned());
        }
        let cost = Params::try_from(&parsed).map_err(|_error| "has parameters that are none of argon2".to_owned())?;
        if cost.m_cost() > MEMORY_KIB_MAX || cost.t_cost() > PASSES_MAX || cost.p_cost() > LANES_MAX {
            return Err(format!(
                "costs too much to check: at most m={MEMORY_KIB_MAX} (KiB), t={PASSES_MAX}, p={LANES_MAX}"
            ));
        }
        if parsed.salt.is_none() || parsed.hash.as_ref().is_none_or(|hash| hash.len() < OUTPUT_BYTES_MIN) {
            return Err(format!("has no salt, or a hash of less than {OUTPUT_BYTES_MIN} bytes"));
        }
        Ok(Self(Redacted::new(parsed)))
    }

    /// Of a new password, with a random salt.
    pub fn of(password: &str) -> Result<Self, String> {
        let mut salt = [0; SALT_BYTES];
        let mut output = [0; NEW_OUTPUT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_unspecified| "there are no random numbers".to_owned())?;
        let (memory, passes, lanes) = NEW_COST;
        let cost = Params::new(memory, passes, lanes, Some(NEW_OUTPUT_BYTES)).map_err(|error| error.to_string())?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.clone());
        argon2
            .hash_password_into(password.as_bytes(), &salt, &mut output)
            .map_err(|error| error.to_string())?;
        Self::made(&cost, &salt, &output)
    }

    /// A hash that costs what new ones cost, and that no password has.
    pub fn dummy() -> Result<Self, String> {
        let (memory, passes, lanes) = NEW_COST;
        let mut random = [0; SALT_BYTES + NEW_OUTPUT_BYTES];
        aws_lc_rs::rand::fill(&mut random).map_err(|_unspecified| "there are no random numbers".to_owned())?;
        let (salt, output) = random.split_at(SALT_BYTES);
        let cost = Params::new(memory, passes, lanes, Some(NEW_OUTPUT_BYTES)).map_err(|error| error.to_string())?;
        Self::made(&cost, salt, output)
    }

    fn made(cost: &Params, salt: &[u8], output: &[u8]) -> Result<Self, String> {
        Ok(Self(Redacted::new(PasswordHash {
            algorithm: ARGON2ID_IDENT,
            version: Some(Version::V0x13.into()),
            params: cost
                .try_into()
                .map_err(|_error| "the parameters cannot be written".to_owned())?,
            salt: Some(Salt::new(salt).map_err(|error| error.to_string())?),
            hash: Some(Output::new(output).map_err(|error| error.to_string())?),
        })))
    }

    /// What a users file holds.
    pub fn to_text(&self) -> String {
        self.0.expose().to_string()
    }

    /// Computes the hash; takes as long as it was made to take.
    pub fn accepts(&self, password: &str) -> bool {
        Argon2::default()
            .verify_password(password.as_bytes(), self.0.expose())
            .is_ok()
    }
}

impl Checker {
    pub fn start() -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..THREADS {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new()
                .name(format!("passwords-{number}"))
                .spawn(move || work(&jobs))?;
        }
        Ok(Self { queue })
    }

    /// Whether `hash` is of this password.
    pub async fn check(&self, password: Redacted<String>, hash: Hash) -> Result<bool, Busy> {
        let (answer, answered) = oneshot::channel();
        let job = Job { password, hash, answer };
        self.queue.try_send(job).map_err(|_full_or_closed| Busy)?;
        let answered = tokio::time::timeout(CHECK_TIMEOUT, answered).await;
        answered.map_err(|_late| Busy)?.map_err(|_thread_gone| Busy)
    }
}

/// Until the last `Checker` is gone. Whoever holds the lock waits for a job; the others wait for the lock.
fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = match jobs.lock() {
            Ok(jobs) => jobs.recv(),
            Err(_poisoned) => return,
        };
        let Ok(job) = next else { return };
        // whoever asked may be gone, and nobody else wants to know
        if job.answer.is_closed() {
            continue;
        }
        let accepted = job.hash.accepts(job.password.expose());
        let _nobody_waits = job.answer.send(accepted).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cheap, for tests.
    const CHEAP: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzYWx0$";

    #[test]
    fn a_new_hash_accepts_its_password_and_no_other() {
        let hash = Hash::of("correct horse").unwrap();
        let text = hash.to_text();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        let again = Hash::parse(&text).unwrap();
        assert!(again.accepts("correct horse") && again == hash);
        assert!(!again.accepts("correct horse ") && !again.accepts(""));
        assert!(!format!("{hash:?}").contains("argon2id"));
        assert_ne!(Hash::of("correct horse").unwrap().to_text(), text);
    }

    #[test]
    fn hashes_of_other_tools_are_accepted_up_to_what_a_check_may_cost() {
        // made by the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -k 65536 -p 1 -e`
        let reference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(Hash::parse(reference).unwrap().accepts("password"));
        let of = |cost: &str| {
            let text = format!("$argon2id$v=19${cost}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc");
            Hash::parse(&text).map(|_| ())
        };
        assert_eq!(of("m=262144,t=16,p=16"), Ok(()));
        for dear in ["m=262145,t=1,p=1", "m=1024,t=17,p=1", "m=4096,t=1,p=17"] {
            assert!(of(dear).unwrap_err().contains("costs too much"), "{dear}");
        }
    }

    #[test]
    fn what_is_no_argon2id_hash_is_refused_without_being_quoted() {
        for bad in [
            "",
            "hunter2",
            "$2y$10$abcdefghijklmnopqrstuv",
            "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2d$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=18$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=1,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=65536,t=2,p=1",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMa",
        ] {
            let error = Hash::parse(bad).unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains("c29tZXNhbHQ"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_full_queue_says_busy_and_a_check_goes_on_afterwards() {
        let checker = Checker::start().unwrap();
        let slow = Hash::of("x").unwrap();
        let mut waiting = Vec::new();
        let mut refused = 0;
        for _ in 0..QUEUE_MAX + THREADS + 10 {
            let mut check = Box::pin(checker.check(Redacted::new("x".to_owned()), slow.clone()));
            match futures_util::poll!(check.as_mut()) {
                std::task::Poll::Ready(Err(Busy)) => refused += 1,
                _ => waiting.push(check),
            }
        }
        assert!(refused >= 8, "{refused}");
        drop(waiting);
        let output = "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let cheap = Hash::parse(&format!("{CHEAP}{output}")).unwrap();
        // those that gave up are skipped
        loop {
            match checker.check(Redacted::new("y".to_owned()), cheap.clone()).await {
                Ok(accepted) => break assert!(!accepted),
                Err(Busy) => tokio::task::yield_now().await,
            }
        }
    }
}
