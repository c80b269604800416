//! A hub on this computer: it serves a folder as the Hugging Face hub would, and misbehaves when it is told to.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::common::micro_model;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The micro model stands for this one.
const REPO: &str = "cerspense/zeroscope_v2_576w";

/// What is done wrong with the files whose path contains a text.
#[derive(Clone, Debug)]
pub enum Twist {
    /// The content of the first connections ends after so many bytes.
    Cut { after: usize, times: usize },
    /// Likewise, and nothing says how long it should be.
    CutWithoutLength { after: usize, times: usize },
    /// Nothing comes after so many bytes, and the connection stays.
    Stall { after: usize, times: usize },
    /// Whole files only.
    NoParts,
    /// Parts are cut out of a file that has changed by the second connection.
    Changed,
    /// The part that comes is another one than was asked for.
    WrongPart,
    /// A byte is another one.
    WrongByte,
    /// More bytes than announced.
    Longer,
    /// A few bytes at a time.
    Slow,
    /// The first answers have this status.
    Status {
        status: u16,
        headers: Vec<(&'static str, String)>,
        times: usize,
        /// Only answers with content, not those before.
        content: bool,
    },
    /// The content is at another address.
    Elsewhere(String),
    /// After the first connection for content the hub leads so many times to where nobody answers, as if the network were gone.
    Gone { times: usize },
    /// The hub says no checksum.
    NoChecksum,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

struct File {
    content: Vec<u8>,
    checksum: String,
    is_large: bool,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, File>,
    twists: Mutex<Vec<(String, Twist)>>,
    asked: Mutex<Vec<Asked>>,
    /// Bytes of content sent, by path.
    sent: Mutex<BTreeMap<String, usize>>,
    /// Connections for content, by path.
    connections: Mutex<BTreeMap<String, usize>>,
    stopped: AtomicBool,
}

pub struct Server {
    port: u16,
    inner: Arc<Inner>,
    listening: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the micro model as ZeroScope.
    pub fn with_micro_model() -> Self {
        let mut files = BTreeMap::new();
        collect(&micro_model(), "", &mut files);
        Self::start(files)
    }

    fn start(files: BTreeMap<String, File>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner {
            files,
            ..Inner::default()
        });
        let shared = Arc::clone(&inner);
        let listening = thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || {
                for stream in listener.incoming() {
                    if shared.stopped.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    let shared = Arc::clone(&shared);
                    thread::Builder::new()
                        .name("connection".to_owned())
                        // Whoever asked may have gone away in the middle of an answer.
                        .spawn(move || shared.serve(stream).ok())
                        .unwrap();
                }
            });
        Self {
            port,
            inner,
            listening: Some(listening.unwrap()),
        }
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn twist(&self, path: &str, twist: Twist) {
        self.inner
            .twists
            .lock()
            .unwrap()
            .push((path.to_owned(), twist));
    }

    /// From now on everything is right.
    pub fn behave(&self) {
        self.inner.twists.lock().unwrap().clear();
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().unwrap().clone()
    }

    /// Requests for the content of files whose path contains this.
    pub fn content_asked(&self, part: &str) -> Vec<Asked> {
        let asked = self.asked().into_iter();
        asked
            .filter(|one| {
                one.method == "GET" && one.path.starts_with("/content/") && one.path.contains(part)
            })
            .collect()
    }

    /// Bytes sent of the content of files whose path contains this.
    pub fn sent(&self, part: &str) -> usize {
        let sent = self.inner.sent.lock().unwrap();
        sent.iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, bytes)| bytes)
            .sum()
    }

    pub fn size(&self, path: &str) -> usize {
        self.inner.files[path].content.len()
    }

    pub fn content(&self, path: &str) -> &[u8] {
        &self.inner.files[path].content
    }

    pub fn checksum(&self, path: &str) -> &str {
        &self.inner.files[path].checksum
    }

    pub fn is_content(&self, checksum: &str, bytes: &[u8]) -> bool {
        let mut files = self.inner.files.values();
        files.any(|file| file.checksum == checksum && file.content == bytes)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
        // Wakes the one that listens.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        if let Some(listening) = self.listening.take() {
            listening.join().ok();
        }
    }
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
            continue;
        }
        let content = fs::read(entry.path()).unwrap();
        let is_large = name.ends_with(".safetensors");
        let checksum = match is_large {
            true => Sha256::digest(&content)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            false => git_checksum(&entry.path()),
        };
        let file = File {
            content,
            checksum,
            is_large,
        };
        files.insert(name, file);
    }
}

/// What Git itself calls the content.
fn git_checksum(path: &Path) -> String {
    let output = Command::new("git")
        .args(["hash-object", "--no-filters"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Inner {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let mut words = first.split(' ');
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        if path.is_empty() {
            return Ok(());
        }
        let mut headers = BTreeMap::new();
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let asked = Asked {
            method: method.to_owned(),
            path: path.to_owned(),
            headers,
        };
        self.asked.lock().unwrap().push(asked.clone());
        match path.strip_prefix("/content/") {
            Some(file) => self.send_content(stream, &asked, file),
            None => self.answer(stream, &asked),
        }
    }

    /// The twist on a path, with one of its times taken.
    fn twisted(&self, path: &str, wanted: impl Fn(&Twist) -> bool) -> Option<Twist> {
        let mut twists = self.twists.lock().unwrap();
        for (part, twist) in twists.iter_mut() {
            if !path.contains(part.as_str()) || !wanted(twist) {
                continue;
            }
            let now = twist.clone();
            if let Twist::Cut { times, .. }
            | Twist::CutWithoutLength { times, .. }
            | Twist::Stall { times, .. }
            | Twist::Gone { times }
            | Twist::Status { times, .. } = twist
            {
                if *times == 0 {
                    continue;
                }
                *times -= 1;
            }
            return Some(now);
        }
        None
    }

    /// What the hub says of a file; large ones are elsewhere.
    fn answer(&self, mut stream: TcpStream, asked: &Asked) -> std::io::Result<()> {
        let is_status = |twist: &Twist| matches!(twist, Twist::Status { content: false, .. });
        if let Some(Twist::Status {
            status, headers, ..
        }) = self.twisted(&asked.path, is_status)
        {
            return head(&mut stream, status, &headers, 0);
        }
        let found = [COMMIT, "main"].into_iter().find_map(|revision| {
            asked
                .path
                .strip_prefix(&format!("/{REPO}/resolve/{revision}/"))
        });
        let Some((path, file)) = found.and_then(|path| Some((path, self.files.get(path)?))) else {
            return head(
                &mut stream,
                404,
                &[("X-Error-Code", "EntryNotFound".to_owned())],
                0,
            );
        };
        let is_checksum = |twist: &Twist| matches!(twist, Twist::NoChecksum);
        let checksum = match self.twisted(path, is_checksum) {
            Some(_) => "\"of another kind\"".to_owned(),
            None => format!("\"{}\"", file.checksum),
        };
        let mut headers = vec![("X-Repo-Commit", COMMIT.to_owned())];
        let is_elsewhere = |twist: &Twist| matches!(twist, Twist::Elsewhere(_));
        let elsewhere = self.twisted(path, is_elsewhere);
        if file.is_large || elsewhere.is_some() {
            headers.push(("X-Linked-Size", file.content.len().to_string()));
            headers.push(("X-Linked-ETag", checksum));
            let begun = self.connections.lock().unwrap().contains_key(path);
            let is_gone = |twist: &Twist| matches!(twist, Twist::Gone { .. }) && begun;
            let gone = self.twisted(path, is_gone);
            let place = match (elsewhere, gone) {
                (Some(Twist::Elsewhere(address)), _) => format!("{address}/content/{path}"),
                (_, Some(_)) => format!("http://127.0.0.1:1/content/{path}"),
                _ => format!("/content/{path}"),
            };
            headers.push(("Location", place));
            return head(&mut stream, 302, &headers, 0);
        }
        headers.push(("ETag", checksum));
        if asked.method == "HEAD" {
            return head(&mut stream, 200, &headers, file.content.len());
        }
        headers.push(("Location", format!("/content/{path}")));
        head(&mut stream, 307, &headers, 0)
    }

    fn send_content(
        &self,
        mut stream: TcpStream,
        asked: &Asked,
        path: &str,
    ) -> std::io::Result<()> {
        let Some(file) = self.files.get(path) else {
            return head(&mut stream, 404, &[], 0);
        };
        if asked.method == "HEAD" {
            return head(&mut stream, 200, &[], file.content.len());
        }
        let connection = {
            let mut connections = self.connections.lock().unwrap();
            let count = connections.entry(path.to_owned()).or_default();
            *count += 1;
            *count
        };
        let is_status = |twist: &Twist| matches!(twist, Twist::Status { content: true, .. });
        if let Some(Twist::Status {
            status, headers, ..
        }) = self.twisted(path, is_status)
        {
            return head(&mut stream, status, &headers, 0);
        }
        let twist = self.twisted(path, |twist| {
            !matches!(
                twist,
                Twist::Status { .. } | Twist::Elsewhere(_) | Twist::Gone { .. } | Twist::NoChecksum
            )
        });
        let mut content = file.content.clone();
        let mut etag = format!("\"store-{}\"", &file.checksum[..8]);
        match &twist {
            Some(Twist::Changed) if connection > 1 => etag = "\"store-new\"".to_owned(),
            Some(Twist::WrongByte) => *content.last_mut().unwrap() ^= 1,
            Some(Twist::Longer) => content.extend(b"and more"),
            _ => {}
        }
        let all = content.len();
        let wanted = asked.headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        let same = asked
            .headers
            .get("if-range")
            .is_none_or(|version| *version == etag);
        let parts = !matches!(twist, Some(Twist::NoParts));
        let mut headers = vec![("ETag", etag)];
        let (status, mut from) = match wanted.filter(|_| same && parts) {
            Some(from) if from >= all => return head(&mut stream, 416, &headers, 0),
            Some(from) => (206, from),
            None => (200, 0),
        };
        if let (Some(Twist::WrongPart), 206) = (&twist, status) {
            from -= 1;
        }
        if status == 206 {
            headers.push(("Content-Range", format!("bytes {from}-{}/{all}", all - 1)));
        }
        let content = &content[from..];
        let announced = match twist {
            Some(Twist::CutWithoutLength { .. } | Twist::Longer) => None,
            _ => Some(content.len()),
        };
        write_head(&mut stream, status, &headers, announced)?;
        let end = match twist {
            Some(
                Twist::Cut { after, .. }
                | Twist::CutWithoutLength { after, .. }
                | Twist::Stall { after, .. },
            ) => after.saturating_sub(from).min(content.len()),
            _ => content.len(),
        };
        let block = if matches!(twist, Some(Twist::Slow)) {
            256
        } else {
            16 << 10
        };
        for block in content[..end].chunks(block) {
            stream.write_all(block)?;
            stream.flush()?;
            *self
                .sent
                .lock()
                .unwrap()
                .entry(path.to_owned())
                .or_default() += block.len();
            if matches!(twist, Some(Twist::Slow)) {
                thread::sleep(Duration::from_millis(20));
            }
        }
        if matches!(twist, Some(Twist::Stall { .. })) {
            thread::sleep(Duration::from_secs(6));
        }
        stream.shutdown(Shutdown::Write)
    }
}

/// A SOCKS5 proxy that leads to a hub on this computer, whatever name is asked for.
pub struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, stopped) = (Arc::default(), Arc::<AtomicBool>::default());
        let (names, to, end) = (Arc::clone(&asked), server.port, Arc::clone(&stopped));
        let listening = named(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(stream), names) = (stream, Arc::clone(&names)) else {
                    continue;
                };
                // Whoever asked may have gone away.
                named(move || {
                    lead(stream, to, &names).ok();
                });
            }
        });
        Self {
            port,
            asked,
            stopped,
            listening: Some(listening),
        }
    }

    /// Its address, for a client that leaves names to it.
    pub fn address(&self) -> String {
        format!("socks5h://127.0.0.1:{}", self.port)
    }

    /// The names that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the one that listens.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        if let Some(listening) = self.listening.take() {
            listening.join().ok();
        }
    }
}

fn named(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = thread::Builder::new().name("proxy".to_owned());
    thread.spawn(work).unwrap()
}

/// One connection through the proxy. Source: RFC 1928.
fn lead(mut client: TcpStream, to: u16, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut start = [0; 2];
    client.read_exact(&mut start)?;
    client.read_exact(&mut vec![0; start[1].into()])?;
    client.write_all(&[5, 0])?;
    // Version, connect, nothing, a name, and its length.
    let mut request = [0; 5];
    client.read_exact(&mut request)?;
    assert_eq!(request[..4], [5, 1, 0, 3], "a name is asked for");
    let mut name = vec![0; request[4].into()];
    client.read_exact(&mut name)?;
    client.read_exact(&mut [0; 2])?;
    let name = String::from_utf8_lossy(&name).into_owned();
    asked.lock().unwrap().push(name);
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let (mut questions, mut answered) = (client.try_clone()?, server.try_clone()?);
    named(move || {
        std::io::copy(&mut questions, &mut answered).ok();
        answered.shutdown(Shutdown::Write).ok();
    });
    std::io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Write)
}

fn head(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&'static str, String)],
    length: usize,
) -> std::io::Result<()> {
    write_head(stream, status, headers, Some(length))?;
    stream.shutdown(Shutdown::Write)
}

fn write_head(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&'static str, String)],
    length: Option<usize>,
) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    if let Some(length) = length {
        text.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())
}
