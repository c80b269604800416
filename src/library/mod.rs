//! The models this program knows, where they are on this computer, and how they get here.
//!
//! [`Known`] is the catalogue: what each method needs, how large it is, under which licence. A model is found in the folders a
//! person added ([`Registry`]) and in Hugging Face's cache ([`Cache`]), whose layout is kept, so that other programs find what
//! was downloaded here and this one what was downloaded there:
//!
//! ```text
//! models--OWNER--NAME/blobs/HASH                 a file's content, named by its checksum
//! models--OWNER--NAME/blobs/HASH.incomplete      what a download that did not end has of it
//! models--OWNER--NAME/snapshots/COMMIT/unet/…    links to the blobs, under the files' own names
//! models--OWNER--NAME/refs/main                  the commit that is in use; written last
//! .locks/models--OWNER--NAME/HASH.lock           held while a file is fetched, by other programs too
//! ```
//! [`Library::entries`] opens a folder with the readers of [`crate::models`] and compares names and shapes of its weights;
//! [`Library::check`] also takes the checksums of files that are named by them. Nothing here uses the network but
//! [`Hub::plan`] and [`Hub::fetch`], and those only where a person asked for a download.

mod cache;
mod catalogue;
mod digest;
mod error;
mod fetch;
mod hub;
mod places;
#[cfg(feature = "hub")]
mod proxy;
mod registry;
mod state;
mod suits;
mod wire;

pub use cache::Cache;
pub use catalogue::{KNOWN, Kind, Known, Licence, Wanted};
pub use error::LibraryError;
pub use fetch::Progress;
pub use hub::{Hub, Patience, Plan, PlannedFile, Token};
pub use places::{Entry, Library, Removed};
pub use registry::{Added, Registry};
pub use state::State;
pub use suits::{Suits, gigabytes};

/// What a library function returns.
type Result<T> = std::result::Result<T, LibraryError>;

/// Called between two small pieces of work: whether to go on.
pub type GoOn<'a> = &'a mut dyn FnMut(&Progress<'_>) -> std::ops::ControlFlow<()>;
