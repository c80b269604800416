//! The Hugging Face hub, or a mirror of it: what it says of a model's files before they are fetched.

use std::env;
use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::cache::{Cache, MAIN, home, is_commit, variable};
use super::catalogue::Known;
use super::digest::Checksum;
use super::error::LibraryError;
use super::wire::{Answer, Failure, Head, Piece, Question, Stopped, Wire};
use super::{GoOn, Progress, Result};

/// The hub itself.
const HUGGING_FACE: &str = "https://huggingface.co";
/// Redirections that are followed.
const REDIRECTIONS: usize = 10;
/// Larger than any file of a model: 16 TiB. Sums of such numbers fit.
const MAX_FILE: u64 = 1 << 44;
/// The longest token and the longest redirection that are believed.
const MAX_TEXT: usize = 8 << 10;

/// What tells the hub who asks. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token as a person pasted it; none where it can be none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let usable = !text.is_empty()
            && text.len() <= MAX_TEXT
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        usable.then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How long to wait for what, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How often in a row a question is asked that gets no answer.
    pub tries: u32,
    /// Wait before the second one; each further wait is twice as long.
    pub pause: Duration,
    /// The longest wait that a hub may ask for.
    pub longest_wait: Duration,
    /// Nothing for so long counts as a lost connection.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 5,
            pause: Duration::from_secs(1),
            longest_wait: Duration::from_secs(120),
            stall: Duration::from_secs(30),
        }
    }
}

/// Where models come from.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Its address, without a slash at the end.
    pub endpoint: String,
    /// Who asks. It goes to this address alone, and unencrypted only to this computer.
    pub token: Option<Token>,
    /// Whether the network must not be used.
    pub offline: bool,
    /// How long to wait.
    pub patience: Patience,
}

/// A file that is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its path inside the model.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Bytes of it that are here.
    pub here_bytes: u64,
    pub(super) checksum: Checksum,
}

/// What a download consists of, as the hub says.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The model.
    pub known: &'static Known,
    /// Its version: all files are of this one.
    pub commit: String,
    /// Its files.
    pub files: Vec<PlannedFile>,
}

impl Plan {
    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes that are not here yet.
    #[must_use]
    pub fn left_bytes(&self) -> u64 {
        let left = |file: &PlannedFile| file.bytes.saturating_sub(file.here_bytes);
        self.files.iter().map(left).sum()
    }
}

/// What the answers on the way to a file say of it; those of the hub alone are believed.
#[derive(Debug, Default)]
struct Said {
    commit: Option<String>,
    linked_checksum: Option<Checksum>,
    linked_bytes: Option<u64>,
    checksum: Option<Checksum>,
    bytes: Option<u64>,
}

/// The end of a way through redirections.
pub(super) struct Reached {
    pub head: Head,
    pub answer: Answer,
    said: Said,
}

/// Why there is no answer to work with.
enum Missed {
    /// Asking again may help.
    Again {
        error: LibraryError,
        wait: Option<Duration>,
    },
    /// It does not.
    Failed(LibraryError),
}

impl From<LibraryError> for Missed {
    fn from(error: LibraryError) -> Self {
        Self::Failed(error)
    }
}

impl From<Stopped> for Missed {
    fn from(_: Stopped) -> Self {
        Self::Failed(LibraryError::Cancelled)
    }
}

impl Hub {
    /// The hub at an address, for whoever has no token.
    #[must_use]
    pub fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: None,
            offline: false,
            patience: Patience::default(),
        }
    }

    /// The hub that all programs for it use: `HF_ENDPOINT`, the token of `HF_TOKEN` or in `~/.cache/huggingface/token`, and
    /// nothing of it where `HF_HUB_OFFLINE` is set.
    #[must_use]
    pub fn from_environment() -> Self {
        let text = |name: &str| env::var(name).ok().filter(|text| !text.trim().is_empty());
        let is_set = |name: &str| {
            let value = text(name).unwrap_or_default().to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.trim())
        };
        let file = variable("HF_TOKEN_PATH").unwrap_or_else(|| home().join("token"));
        let token = text("HF_TOKEN")
            .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| fs::read_to_string(file).ok());
        let hub = Self::new(
            text("HF_ENDPOINT")
                .as_deref()
                .unwrap_or(HUGGING_FACE)
                .trim(),
        );
        Self {
            token: token.as_deref().and_then(Token::new),
            offline: is_set("HF_HUB_OFFLINE"),
            ..hub
        }
    }

    /// Asks the hub for version, sizes and checksums of a model's files. Nothing is fetched.
    ///
    /// # Errors
    /// When the network must not be used, the hub cannot be reached, or it does not hand the model out.
    pub fn plan(&self, known: &'static Known, cache: &Cache, go_on: GoOn<'_>) -> Result<Plan> {
        let wire = self.wire()?;
        let mut commit: Option<String> = None;
        let mut files = Vec::new();
        for (done, wanted) in known.files.iter().enumerate() {
            let mut look = || {
                go_on(&Progress {
                    file: wanted.names[0],
                    done_bytes: done as u64,
                    total_bytes: known.files.len() as u64,
                })
            };
            let revision = commit.clone();
            let revision = revision.as_deref().unwrap_or(MAIN);
            let mut found = None;
            for name in wanted.names {
                let url = self.address(known.repo, revision, name);
                match self.reach(&wire, (true, &url, &[]), known.repo, &mut look) {
                    Ok(reached) => {
                        found = Some((*name, reached.said));
                        break;
                    }
                    // It may be there in another form.
                    Err(LibraryError::NotThere { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let Some((name, said)) = found else {
                if wanted.is_optional {
                    continue;
                }
                return Err(LibraryError::NotThere {
                    host: self.host(),
                    what: format!("{} of {}", wanted.names[0], known.repo),
                });
            };
            let (of_file, planned) = self.planned(known, cache, name, said)?;
            if commit.get_or_insert_with(|| of_file.clone()) != &of_file {
                return Err(self.no_hub("it mixes two versions of the model"));
            }
            files.push(planned);
        }
        let commit = commit.ok_or_else(|| self.no_hub("it names no version of the model"))?;
        Ok(Plan {
            known,
            commit,
            files,
        })
    }

    fn planned(
        &self,
        known: &Known,
        cache: &Cache,
        name: &str,
        said: Said,
    ) -> Result<(String, PlannedFile)> {
        let missing = |what: &str| self.no_hub(&format!("it says no {what} of {name}"));
        let commit = said.commit.ok_or_else(|| missing("version"))?;
        let checksum = said.linked_checksum.or(said.checksum);
        let checksum = checksum.ok_or_else(|| missing("checksum"))?;
        let bytes = said.linked_bytes.or(said.bytes);
        let bytes = bytes.filter(|bytes| *bytes <= MAX_FILE);
        let bytes = bytes.ok_or_else(|| missing("size"))?;
        let size = |path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let whole = size(cache.blob(known.repo, &checksum));
        let part = size(cache.incomplete(known.repo, &checksum));
        let here_bytes = if whole == bytes {
            whole
        } else {
            part.min(bytes)
        };
        let planned = PlannedFile {
            path: name.to_owned(),
            bytes,
            here_bytes,
            checksum,
        };
        Ok((commit, planned))
    }

    /// A way into the network.
    pub(super) fn wire(&self) -> Result<Wire> {
        if self.offline {
            return Err(LibraryError::Offline);
        }
        let host = host_of(&self.endpoint);
        if origin(&self.endpoint).is_none() {
            return Err(LibraryError::NoHub {
                host,
                why: "its address does not begin with https:// or http://".to_owned(),
            });
        }
        Wire::new(is_local(&self.endpoint))
    }

    /// Where the hub has a file.
    pub(super) fn address(&self, repo: &str, revision: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{revision}/{file}", self.endpoint)
    }

    /// The hub's name.
    pub(super) fn host(&self) -> String {
        host_of(&self.endpoint)
    }

    fn no_hub(&self, why: &str) -> LibraryError {
        LibraryError::NoHub {
            host: self.host(),
            why: why.to_owned(),
        }
    }

    /// Asks `(only head, address, headers)` until there is an answer of status 200, 206 or 416, with patience.
    pub(super) fn reach(
        &self,
        wire: &Wire,
        (only_head, url, headers): (bool, &str, &[(&'static str, String)]),
        repo: &str,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Reached> {
        let mut pause = self.patience.pause;
        let mut tries = 1;
        loop {
            match self.follow(wire, (only_head, url, headers), repo, go_on) {
                Ok(reached) => return Ok(reached),
                Err(Missed::Failed(error)) => return Err(error),
                Err(Missed::Again { error, wait }) => {
                    let wait = wait.unwrap_or(pause).max(pause);
                    if tries >= self.patience.tries || wait > self.patience.longest_wait {
                        return Err(error);
                    }
                    rest(wait, go_on)?;
                    tries += 1;
                    pause *= 2;
                }
            }
        }
    }

    /// Asks once, through redirections.
    fn follow(
        &self,
        wire: &Wire,
        (only_head, first, headers): (bool, &str, &[(&'static str, String)]),
        repo: &str,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> std::result::Result<Reached, Missed> {
        let mut url = first.to_owned();
        let mut said = Said::default();
        for _ in 0..REDIRECTIONS {
            let at_hub = origin(&url) == origin(&self.endpoint);
            let token = self.token_for(&url);
            let with_token = token.is_some();
            let host = host_of(&url);
            let mut headers = headers.to_vec();
            headers.extend(token.map(|token| ("authorization", format!("Bearer {}", token.0))));
            let question = Question {
                only_head,
                url: url.clone(),
                headers,
            };
            let unreachable = |why: String| LibraryError::Unreachable {
                host: host.clone(),
                why,
            };
            let answer = wire
                .ask(question)
                .map_err(|error| unreachable(error.to_string()))?;
            let head = match answer.next(self.patience.stall, go_on)? {
                Piece::Head(head) => head,
                Piece::Failed(Failure {
                    unreachable: true,
                    why,
                }) => {
                    return Err(Missed::Failed(unreachable(why)));
                }
                Piece::Failed(Failure { why, .. }) => {
                    let error = unreachable(why);
                    return Err(Missed::Again { error, wait: None });
                }
                Piece::Bytes(_) | Piece::End => {
                    return Err(self.no_hub("its answer has no head").into());
                }
            };
            if at_hub {
                said.hear(&head);
            }
            if let 301 | 302 | 303 | 307 | 308 = head.status {
                let target = head
                    .get("location")
                    .filter(|target| target.len() <= MAX_TEXT);
                let target = target.and_then(|target| resolved(&url, target));
                let target = target.ok_or_else(|| self.no_hub("it leads to no address"))?;
                if url.starts_with("https:") && !target.starts_with("https:") {
                    return Err(self
                        .no_hub("it leads out of the encrypted connection")
                        .into());
                }
                let leaves = origin(&target) != origin(&self.endpoint);
                let is_known = said.linked_checksum.is_some() && said.linked_bytes.is_some();
                if only_head && leaves && is_known {
                    // Everything worth knowing was said on the way.
                    return Ok(Reached { head, answer, said });
                }
                url = target;
                continue;
            }
            let place = (host.as_str(), at_hub, with_token);
            judge(&head, place, (repo, first))?;
            return Ok(Reached { head, answer, said });
        }
        Err(self
            .no_hub("it leads from one address to the next without an end")
            .into())
    }

    /// The token, where it may go to this address.
    fn token_for(&self, url: &str) -> Option<&Token> {
        let is_hub = origin(url) == origin(&self.endpoint);
        let is_private = url.starts_with("https:") || is_local(url);
        self.token.as_ref().filter(|_| is_hub && is_private)
    }
}

impl Said {
    /// Notes what an answer of the hub says. The first word holds: later ones are about where the file lies.
    fn hear(&mut self, head: &Head) {
        let checksum = |name: &str| head.get(name).and_then(Checksum::parse);
        let number = |name: &str| head.get(name).and_then(|text| text.trim().parse().ok());
        let commit = head.get("x-repo-commit").filter(|commit| is_commit(commit));
        self.commit = self.commit.take().or_else(|| commit.map(str::to_owned));
        self.linked_checksum = self
            .linked_checksum
            .take()
            .or_else(|| checksum("x-linked-etag"));
        self.linked_bytes = self.linked_bytes.or_else(|| number("x-linked-size"));
        if head.status == 200 {
            self.checksum = self.checksum.take().or_else(|| checksum("etag"));
            self.bytes = self.bytes.or_else(|| number("content-length"));
        }
    }
}

/// Lets answers through that can be worked with.
fn judge(
    head: &Head,
    (host, at_hub, with_token): (&str, bool, bool),
    (repo, what): (&str, &str),
) -> std::result::Result<(), Missed> {
    let host = host.to_owned();
    let retry_after = head
        .get("retry-after")
        .and_then(|text| text.trim().parse().ok());
    let wait = retry_after.map(Duration::from_secs);
    let status = head.status;
    let odd = |host| LibraryError::Status {
        host,
        what: what.to_owned(),
        status,
    };
    match status {
        200 | 206 | 416 => Ok(()),
        401 | 403 if at_hub => Err(Missed::Failed(LibraryError::Refused {
            host,
            repo: repo.to_owned(),
            status,
            with_token,
        })),
        // The address that the hub gave out was good for a while only: it gives another one.
        403 => Err(Missed::Again {
            error: odd(host),
            wait,
        }),
        404 | 410 => {
            let what = match head.get("x-error-code") {
                Some("RepoNotFound") => repo.to_owned(),
                _ => what.to_owned(),
            };
            Err(Missed::Failed(LibraryError::NotThere { host, what }))
        }
        429 => {
            let error = LibraryError::TooMany {
                host,
                retry_secs: retry_after,
            };
            Err(Missed::Again { error, wait })
        }
        500.. => Err(Missed::Again {
            error: odd(host),
            wait,
        }),
        _ => Err(Missed::Failed(odd(host))),
    }
}

/// Waits, and looks around meanwhile.
pub(super) fn rest(wait: Duration, go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(50);
    let begun = Instant::now();
    loop {
        if go_on().is_break() {
            return Err(LibraryError::Cancelled);
        }
        let Some(left) = wait
            .checked_sub(begun.elapsed())
            .filter(|left| !left.is_zero())
        else {
            return Ok(());
        };
        std::thread::sleep(left.min(LOOK));
    }
}

/// Scheme and authority of an address; none for other schemes.
fn origin(url: &str) -> Option<(String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let known = scheme == "https" || scheme == "http";
    (known && !authority.is_empty()).then(|| (scheme, authority.to_ascii_lowercase()))
}

/// The name of a server, with its port.
fn host_of(url: &str) -> String {
    match origin(url) {
        Some((_, authority)) => authority,
        None => url.to_owned(),
    }
}

/// Whether a server is on this computer.
fn is_local(url: &str) -> bool {
    let host = host_of(url);
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => &host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// The address a redirection leads to.
fn resolved(from: &str, target: &str) -> Option<String> {
    let (scheme, authority) = origin(from)?;
    let target = target.trim();
    let whole = if let Some(rest) = target.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if target.starts_with('/') {
        format!("{scheme}://{authority}{target}")
    } else {
        target.to_owned()
    };
    let plain = whole.bytes().all(|byte| byte.is_ascii_graphic());
    (plain && origin(&whole).is_some()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_the_hub_alone_and_never_shown() {
        let mut hub = Hub::new("https://huggingface.co/");
        hub.token = Token::new(" hf_secret\n");
        for (url, allowed) in [
            ("https://huggingface.co/a/b/resolve/main/c", true),
            ("HTTPS://HuggingFace.co/a", false),
            ("http://huggingface.co/a", false),
            ("https://huggingface.co.evil.example/a", false),
            ("https://huggingface.co@evil.example/a", false),
            ("https://huggingface.co:8443/a", false),
            ("https://cdn.example/a?x=https://huggingface.co/", false),
        ] {
            assert_eq!(hub.token_for(url).is_some(), allowed, "{url}");
        }
        assert!(!format!("{hub:?}").contains("secret"));
        // Unencrypted it goes nowhere but to this computer.
        hub.endpoint = "http://mirror.example".to_owned();
        assert!(hub.token_for("http://mirror.example/a").is_none());
        hub.endpoint = "http://127.0.0.1:8080".to_owned();
        assert!(hub.token_for("http://127.0.0.1:8080/a").is_some());
        assert!(hub.token_for("http://127.0.0.1:8081/a").is_none());
        assert_eq!(Token::new("two words"), None);
    }

    #[test]
    fn redirections_lead_to_whole_addresses() {
        let from = "https://hub.example/a/b/resolve/main/c";
        for (target, whole) in [
            ("/api/c?x=1", Some("https://hub.example/api/c?x=1")),
            ("//cdn.example/c", Some("https://cdn.example/c")),
            ("https://cdn.example/c", Some("https://cdn.example/c")),
            ("ftp://cdn.example/c", None),
            ("file:///etc/passwd", None),
            ("https://cdn.example/c\r\nx: y", None),
        ] {
            assert_eq!(resolved(from, target).as_deref(), whole, "{target}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_refused_without_a_question() {
        let mut hub = Hub::new("huggingface.co");
        assert!(hub.wire().is_err());
        hub = Hub::new("https://huggingface.co");
        hub.offline = true;
        assert!(matches!(hub.wire(), Err(LibraryError::Offline)));
    }
}
