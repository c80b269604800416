//! One question to a server and its answer, on a thread of its own: whoever waits can look around meanwhile and go away.

#![cfg_attr(
    not(feature = "hub"),
    expect(dead_code, reason = "without the feature nothing is asked")
)]

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

/// Between two looks around while nothing comes.
const LOOK: Duration = Duration::from_millis(50);

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    /// `HEAD` rather than `GET`.
    pub only_head: bool,
    /// Whole address.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
}

/// What comes before the content.
#[derive(Debug)]
pub(super) struct Head {
    /// Status.
    pub status: u16,
    /// Names in small letters, and values.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a header; the first one where there are several.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Part of an answer.
#[derive(Debug)]
pub(super) enum Piece {
    /// Status and headers; always the first one.
    Head(Head),
    /// Some content.
    Bytes(Vec<u8>),
    /// The content is over.
    End,
    /// It broke off.
    Failed(Failure),
}

/// Why an answer broke off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Whether there was no connection at all.
    pub unreachable: bool,
    /// What the system says.
    pub why: String,
}

impl Failure {
    fn dropped(why: impl Into<String>) -> Self {
        Self {
            unreachable: false,
            why: why.into(),
        }
    }
}

/// Whoever waited was told to stop.
#[derive(Debug)]
pub(super) struct Stopped;

/// An answer under way. When it is dropped, the thread ends with the next bytes that come.
pub(super) struct Answer {
    pieces: Receiver<Piece>,
}

impl Answer {
    /// The next piece. Nothing for as long as `stall` counts as broken off.
    ///
    /// # Errors
    /// When `go_on` says so.
    pub fn next(
        &self,
        stall: Duration,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Piece, Stopped> {
        let begun = Instant::now();
        loop {
            if go_on().is_break() {
                return Err(Stopped);
            }
            match self.pieces.recv_timeout(LOOK) {
                Ok(piece) => return Ok(piece),
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Piece::Failed(Failure::dropped("the answer broke off")));
                }
                Err(RecvTimeoutError::Timeout) if begun.elapsed() >= stall => {
                    let why = format!("nothing came for {} s", stall.as_secs().max(1));
                    return Ok(Piece::Failed(Failure::dropped(why)));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Asks questions.
#[derive(Clone)]
pub(super) struct Wire {
    #[cfg(feature = "hub")]
    agents: network::Agents,
}

#[cfg(feature = "hub")]
mod network {
    use std::io::{self, Read as _};
    use std::thread;
    use std::time::Duration;

    use crossbeam::channel::{Sender, bounded};
    use ureq::http::Response;
    use ureq::tls::{RootCerts, TlsConfig};

    use super::super::{Result, proxy};
    use super::{Answer, Failure, Head, Piece, Question, Wire};

    /// Content that is read at once.
    const BLOCK: usize = 128 << 10;
    /// Pieces that wait to be written.
    const PIECES: usize = 8;
    /// The longest a connection may take to come about.
    const CONNECT: Duration = Duration::from_secs(20);
    /// The longest one connection is used, so that a thread nobody waits for ends; the download goes on with the next.
    const CONNECTION: Duration = Duration::from_secs(3600);

    /// Who asks.
    #[derive(Clone)]
    pub(super) struct Agents {
        /// Trusts those whom the system trusts: in some networks a proxy vouches for every server by a certificate that only
        /// the computers there know.
        system: ureq::Agent,
        /// Trusts a list inside the program, for a system that has none.
        listed: ureq::Agent,
    }

    impl Wire {
        /// A way into the network. A server on this computer is asked without a proxy.
        ///
        /// # Errors
        /// When the environment names a proxy that is none.
        pub fn new(is_local: bool) -> Result<Self> {
            let proxy = match is_local {
                true => None,
                false => proxy::from_environment()?,
            };
            let agent = |trusted: RootCerts| {
                ureq::Agent::config_builder()
                    .user_agent(concat!("spectral-motion/", env!("CARGO_PKG_VERSION")))
                    .http_status_as_error(false)
                    // Redirections are followed by hand: the token stays with the hub, and its headers are kept.
                    .max_redirects(0)
                    .max_redirects_will_error(false)
                    .timeout_resolve(Some(CONNECT))
                    .timeout_connect(Some(CONNECT))
                    .timeout_recv_body(Some(CONNECTION))
                    .tls_config(TlsConfig::builder().root_certs(trusted).build())
                    .proxy(proxy.clone())
                    .build()
                    .new_agent()
            };
            let agents = Agents {
                system: agent(RootCerts::PlatformVerifier),
                listed: agent(RootCerts::WebPki),
            };
            Ok(Self { agents })
        }

        /// Asks, on a thread of its own.
        ///
        /// # Errors
        /// When the operating system gives no thread.
        pub fn ask(&self, question: Question) -> io::Result<Answer> {
            let (sender, pieces) = bounded(PIECES);
            let agents = self.agents.clone();
            thread::Builder::new()
                .name("download".to_owned())
                .spawn(move || {
                    let last = match talk(&agents, &question, &sender) {
                        Ok(()) => Piece::End,
                        Err(failure) => Piece::Failed(failure),
                    };
                    // Nobody may wait any more.
                    sender.send(last).ok();
                })?;
            Ok(Answer { pieces })
        }
    }

    fn call(
        agent: &ureq::Agent,
        question: &Question,
    ) -> std::result::Result<Response<ureq::Body>, ureq::Error> {
        let request = match question.only_head {
            true => agent.head(&question.url),
            false => agent.get(&question.url),
        };
        // The bytes must be those that were hashed, not a packed form of them.
        let request = request.header("accept-encoding", "identity");
        let request = question
            .headers
            .iter()
            .fold(request, |request, (name, value)| {
                request.header(*name, value)
            });
        request.call()
    }

    fn talk(
        agents: &Agents,
        question: &Question,
        sender: &Sender<Piece>,
    ) -> std::result::Result<(), Failure> {
        let answer = match call(&agents.system, question) {
            // Before the first byte: the system has no list. A server that is not trusted is another error.
            Err(ureq::Error::Rustls(_)) => call(&agents.listed, question),
            answer => answer,
        };
        let answer = answer.map_err(|error| failure(&error))?;
        let headers = answer.headers().iter();
        let headers = headers.filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        });
        let head = Head {
            status: answer.status().as_u16(),
            headers: headers.collect(),
        };
        let gone = |_| Failure::dropped("nobody waits for it");
        sender.send(Piece::Head(head)).map_err(gone)?;
        if question.only_head {
            return Ok(());
        }
        let mut content = answer.into_body().into_reader();
        loop {
            let mut block = vec![0; BLOCK];
            let read = match content.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::dropped(error.to_string())),
            };
            block.truncate(read);
            sender.send(Piece::Bytes(block)).map_err(gone)?;
        }
    }

    fn failure(error: &ureq::Error) -> Failure {
        use io::ErrorKind as Kind;
        let unreachable = match error {
            ureq::Error::Io(error) => matches!(
                error.kind(),
                Kind::ConnectionRefused
                    | Kind::HostUnreachable
                    | Kind::NetworkUnreachable
                    | Kind::NetworkDown
                    | Kind::AddrNotAvailable
                    | Kind::PermissionDenied
            ),
            ureq::Error::Timeout(which) => {
                matches!(which, ureq::Timeout::Resolve | ureq::Timeout::Connect)
            }
            ureq::Error::Protocol(_) | ureq::Error::BodyStalled => false,
            _ => true,
        };
        Failure {
            unreachable,
            why: error.to_string(),
        }
    }
}

/// Without the feature there is no way into the network.
#[cfg(not(feature = "hub"))]
impl Wire {
    pub fn new(_is_local: bool) -> super::Result<Self> {
        Err(super::error::LibraryError::NoNetwork)
    }

    pub fn ask(&self, _question: Question) -> std::io::Result<Answer> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
