//! The model library: downloads from a hub on this computer that does everything a hub and the way to it can do wrong.

mod command;
mod download;
mod places;
pub mod server;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use spectral_motion::library::{Cache, Hub, Known, Library, LibraryError, Patience, Progress};

use self::server::Server;

/// The catalogue's model that the micro model stands for here.
pub fn zeroscope() -> &'static Known {
    Known::find("zeroscope").unwrap()
}

pub fn go_on(_: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A library in a folder of its own, and a hub that serves the micro model as ZeroScope.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub library: Library,
    pub server: Server,
    pub hub: Hub,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::with_micro_model();
        let cache = Cache::new(folder.path().join("home/hub"));
        Self {
            library: Library::new(&folder.path().join("data"), cache),
            hub: hub_at(&server),
            folder,
            server,
        }
    }

    /// Plans and fetches.
    pub fn get(&self) -> Result<PathBuf, LibraryError> {
        let plan = self
            .hub
            .plan(zeroscope(), &self.library.cache, &mut go_on)?;
        self.library.fetch(&self.hub, &plan, &mut go_on)
    }

    /// Whether nothing in the cache can be taken for a model or a whole file of one: each blob without an ending is what its
    /// name says, and no version is in use.
    #[track_caller]
    pub fn holds_nothing_half(&self) {
        let entry = self.library.cache.entry(zeroscope().repo);
        assert!(!entry.join("refs/main").exists(), "a version is in use");
        for path in files_in(&entry.join("blobs")) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !name.contains('.') {
                let bytes = std::fs::read(&path).unwrap();
                assert!(self.server.is_content(&name, &bytes), "{name} is not whole");
            }
        }
        let state = self.library.entry("zeroscope").unwrap().state;
        assert!(!state.is_present(), "{state:?}");
    }

    /// What a download left behind that did not end.
    pub fn parts(&self) -> Vec<PathBuf> {
        let blobs = self.library.cache.entry(zeroscope().repo).join("blobs");
        let ends = |path: &PathBuf| {
            path.extension()
                .is_some_and(|ending| ending == "incomplete")
        };
        files_in(&blobs).into_iter().filter(ends).collect()
    }
}

/// The hub at a server, with little patience.
pub fn hub_at(server: &Server) -> Hub {
    let mut hub = Hub::new(&server.address());
    hub.patience = Patience {
        tries: 4,
        pause: Duration::from_millis(20),
        longest_wait: Duration::from_secs(3),
        stall: Duration::from_secs(2),
    };
    hub
}

pub fn files_in(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}
