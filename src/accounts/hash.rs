//! Argon2id password hashes, and the threads that check passwords against them.
//!
//! One check costs tens of milliseconds and megabytes on purpose. So a bounded queue feeds `THREADS` threads: a full
//! queue refuses the check at once, and a check that takes longer than `CHECK_TIMEOUT` fails. A password never prints,
//! and the thread drops it after the check.
//!
//! Keyboards and systems write one password in different code points. `prepare` brings it into one form before it is
//! hashed (RFC 8265, `OpaqueString`).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use argon2::password_hash::phc::{Output, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordHash, PasswordVerifier, Version};
use cedargate_policy::types::Redacted;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use unicode_normalization::{UnicodeNormalization as _, is_nfc};

/// Cost of new hashes, as OWASP recommends: KiB of memory, passes, lanes.
const NEW_MEMORY_KIB: u32 = 19 * 1024;
const NEW_PASSES: u32 = 2;
const NEW_LANES: u32 = 1;
/// Highest cost of a hash in a users file; `THREADS` checks run at once.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
/// Bytes of a hash; a shorter hash matches wrong passwords too often.
const OUTPUT_BYTES_MIN: usize = 16;
const NEW_OUTPUT_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// Bytes of a password; a longer one is refused.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Hashes computed at once.
const THREADS: usize = 2;
/// Passwords that wait for a thread; more are refused with `Busy`.
const QUEUE_MAX: usize = 32;
/// Time from submission to result; a later result counts as `Busy`.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// A parsed argon2id hash within the cost limits. Never prints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hash(Redacted<PasswordHash>);

/// The password threads and their queue. Dropping it ends the threads.
#[derive(Debug)]
pub struct PasswordChecker {
    queue: SyncSender<Job>,
}

#[derive(Debug)]
struct Job {
    password: Redacted<String>,
    hash: Hash,
    result: oneshot::Sender<bool>,
}

/// The check was not made in time: the queue is full, or the threads are slow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Busy;

impl Hash {
    /// Parses a PHC string. The error names the fault and never quotes the string.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = PasswordHash::new(text).map_err(|_may_quote| {
            "is not a hash in PHC format (`$argon2id$v=19$m=…`); set it with `cedargate user passwd`".to_owned()
        })?;
        if parsed.algorithm != ARGON2ID_IDENT {
            return Err("is not an argon2id hash; set it with `cedargate user passwd`".to_owned());
        }
        let version = parsed.version.unwrap_or(Version::V0x13.into());
        if Version::try_from(version).is_err() {
            return Err("has an unknown version of argon2".to_owned());
        }
        let cost = Params::try_from(&parsed).map_err(|_error| "has parameters that argon2 does not know".to_owned())?;
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

    /// Hashes a new password with a random salt.
    pub fn new(password: &str) -> Result<Self, String> {
        let mut salt = [0; SALT_BYTES];
        let mut output = [0; NEW_OUTPUT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_unspecified| "the random number generator failed".to_owned())?;
        let cost = new_cost()?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.clone());
        argon2
            .hash_password_into(prepare(password).as_bytes(), &salt, &mut output)
            .map_err(|error| error.to_string())?;
        Self::from_parts(&cost, &salt, &output)
    }

    /// A random hash that no password matches, with the cost of a new hash.
    pub fn dummy() -> Result<Self, String> {
        let mut random = [0; SALT_BYTES + NEW_OUTPUT_BYTES];
        aws_lc_rs::rand::fill(&mut random).map_err(|_unspecified| "the random number generator failed".to_owned())?;
        let (salt, output) = random.split_at(SALT_BYTES);
        Self::from_parts(&new_cost()?, salt, output)
    }

    fn from_parts(cost: &Params, salt: &[u8], output: &[u8]) -> Result<Self, String> {
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

    /// The PHC string that a users file holds.
    pub fn to_text(&self) -> String {
        self.0.expose().to_string()
    }

    /// True if the hash is of this password, prepared or as it was sent: other tools hash what they are given. Blocks
    /// for as long as the hash's cost takes, twice if the two forms differ and the first does not match.
    pub fn accepts(&self, password: &str) -> bool {
        let prepared = prepare(password);
        self.is_of(&prepared) || (prepared != password && self.is_of(password))
    }

    fn is_of(&self, password: &str) -> bool {
        Argon2::default()
            .verify_password(password.as_bytes(), self.0.expose())
            .is_ok()
    }
}

/// The one form of a password (RFC 8265, section 4.2): every space is the ASCII space, and the text is in NFC.
fn prepare(password: &str) -> Cow<'_, str> {
    if password.is_ascii() || (is_nfc(password) && !password.chars().any(is_other_space)) {
        return Cow::Borrowed(password);
    }
    let spaced = password.chars().map(|c| if is_other_space(c) { ' ' } else { c });
    Cow::Owned(spaced.nfc().collect())
}

/// A space of Unicode (general category Zs) besides the ASCII one.
const fn is_other_space(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

fn new_cost() -> Result<Params, String> {
    Params::new(NEW_MEMORY_KIB, NEW_PASSES, NEW_LANES, Some(NEW_OUTPUT_BYTES)).map_err(|error| error.to_string())
}

impl PasswordChecker {
    pub fn start() -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..THREADS {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new()
                .name(format!("passwords-{number}"))
                .spawn(move || run_checks(&jobs))?;
        }
        Ok(Self { queue })
    }

    /// True if `hash` is of this password; `Busy` if the queue is full or the result is late.
    pub async fn check(&self, password: Redacted<String>, hash: Hash) -> Result<bool, Busy> {
        let (result_sender, result) = oneshot::channel();
        let job = Job {
            password,
            hash,
            result: result_sender,
        };
        self.queue.try_send(job).map_err(|_full_or_closed| Busy)?;
        let result = tokio::time::timeout(CHECK_TIMEOUT, result).await;
        result.map_err(|_late| Busy)?.map_err(|_thread_gone| Busy)
    }
}

/// Runs on each thread until the `PasswordChecker` is dropped. The thread that holds the lock waits for the next job;
/// the other threads wait for the lock.
fn run_checks(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().recv();
        let Ok(job) = next else { return };
        // the login request timed out or was dropped: its result is not needed
        if job.result.is_closed() {
            continue;
        }
        let accepted = job.hash.accepts(job.password.expose());
        let _receiver_dropped = job.result.send(accepted).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash that is cheap to check, without its output.
    const CHEAP: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzYWx0$";

    #[test]
    fn new_hash_accepts_its_password_and_no_other() {
        let hash = Hash::new("correct horse").unwrap();
        let text = hash.to_text();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        let again = Hash::parse(&text).unwrap();
        assert!(again.accepts("correct horse") && again == hash);
        assert!(!again.accepts("correct horse ") && !again.accepts(""));
        assert!(!format!("{hash:?}").contains("argon2id"));
        assert_ne!(Hash::new("correct horse").unwrap().to_text(), text);
    }

    #[test]
    fn password_matches_in_every_unicode_form_in_which_it_can_be_typed() {
        for (set, typed) in [
            ("Zo\u{eb} caf\u{e9} 1", "Zoe\u{308} cafe\u{301} 1"),
            ("Zoe\u{308} cafe\u{301} 1", "Zo\u{eb} caf\u{e9} 1"),
            ("\u{c5}ngstr\u{f6}m!", "\u{212b}ngstro\u{308}m!"),
            (
                "\u{ac00}\u{b098}\u{b2e4} xyz",
                "\u{1100}\u{1161}\u{1102}\u{1161}\u{1103}\u{1161}\u{3000}xyz",
            ),
            ("two\u{a0}words", "two words"),
        ] {
            let hash = Hash::new(set).unwrap();
            assert!(hash.accepts(typed) && hash.accepts(set), "{set} {typed}");
        }
        let hash = Hash::new("caf\u{e9} 12345").unwrap();
        for other in ["cafe 12345", "CAF\u{c9} 12345", "caf\u{e9}  12345", "caf\u{e9} \u{ff11}2345"] {
            assert!(!hash.accepts(other), "{other}");
        }
        // made by a tool that hashes the bytes that it is given, here in NFD
        let cost = Params::new(8, 1, 1, Some(NEW_OUTPUT_BYTES)).unwrap();
        let mut output = [0; NEW_OUTPUT_BYTES];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.clone());
        argon2
            .hash_password_into("cafe\u{301}".as_bytes(), &[7; SALT_BYTES], &mut output)
            .unwrap();
        let foreign = Hash::from_parts(&cost, &[7; SALT_BYTES], &output).unwrap();
        assert!(foreign.accepts("cafe\u{301}") && !foreign.accepts("cafe"));
    }

    #[test]
    fn hashes_of_other_tools_are_accepted_up_to_the_cost_limit() {
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
    fn text_that_is_not_an_argon2id_hash_is_refused_and_not_quoted() {
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
    async fn full_queue_refuses_checks_until_it_has_room() {
        let checker = PasswordChecker::start().unwrap();
        let slow = Hash::new("x").unwrap();
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
        // the threads skip the jobs of dropped checks
        loop {
            match checker.check(Redacted::new("y".to_owned()), cheap.clone()).await {
                Ok(accepted) => break assert!(!accepted),
                Err(Busy) => tokio::task::yield_now().await,
            }
        }
    }
}
