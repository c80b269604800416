//! Fetching: what is right arrives whole, what goes wrong is told, and nothing half is ever taken for a whole.

use std::fs;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use spectral_motion::library::{Known, LibraryError, State, Token};
use spectral_motion::models::ModelFolder;

use super::server::{COMMIT, Server, Twist};
use super::{Place, go_on, zeroscope};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

#[test]
fn a_model_arrives_whole_and_is_not_fetched_again() {
    let place = Place::new();
    let plan = place
        .hub
        .plan(zeroscope(), &place.library.cache, &mut go_on)
        .unwrap();
    assert!(
        place
            .server
            .asked()
            .iter()
            .all(|asked| asked.method == "HEAD"),
        "a plan fetches nothing"
    );
    assert_eq!(plan.commit, COMMIT);
    // The file the hub does not have is one that a model can do without.
    assert_eq!(plan.files.len(), zeroscope().files.len() - 1);
    let sizes: usize = plan
        .files
        .iter()
        .map(|file| place.server.size(&file.path))
        .sum();
    assert_eq!(
        (plan.bytes(), plan.left_bytes()),
        (sizes as u64, sizes as u64)
    );

    let mut told = Vec::new();
    let folder = place
        .library
        .fetch(&place.hub, &plan, &mut |progress| {
            told.push((progress.done_bytes, progress.total_bytes));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(
        told.is_sorted()
            && told
                .iter()
                .all(|(done, total)| done <= total && *total == sizes as u64)
    );
    for file in &plan.files {
        let fetched = fs::read(folder.join(&file.path)).unwrap();
        assert!(fetched == place.server.content(&file.path), "{}", file.path);
    }
    ModelFolder::open(&folder).unwrap().check_weights().unwrap();
    assert_eq!(
        place.library.entry("zeroscope").unwrap().state,
        State::Present
    );
    assert!(place.parts().is_empty());
    // Other programs for the hub find it: their layout, and the version in use.
    let entry = place
        .folder
        .path()
        .join("home/hub/models--cerspense--zeroscope_v2_576w");
    assert_eq!(fs::read_to_string(entry.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(folder, entry.join("snapshots").join(COMMIT));
    assert!(
        entry
            .join("blobs")
            .join(place.server.checksum(UNET))
            .is_file()
    );

    let before = place.server.sent("");
    assert_eq!(before, sizes);
    assert_eq!(place.get().unwrap(), folder);
    assert_eq!(
        place.server.sent(""),
        before,
        "what is here is not fetched again"
    );
}

#[test]
fn a_lost_connection_is_taken_up_where_it_ended() {
    for without_length in [false, true] {
        let place = Place::new();
        let size = place.server.size(UNET);
        let after = size / 2 + 77;
        let times = 1;
        place.server.twist(
            UNET,
            match without_length {
                false => Twist::Cut { after, times },
                true => Twist::CutWithoutLength { after, times },
            },
        );
        let folder = place.get().unwrap();
        assert!(fs::read(folder.join(UNET)).unwrap() == place.server.content(UNET));
        let asked = place.server.content_asked(UNET);
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[0].headers.get("range"), None);
        assert_eq!(asked[1].headers["range"], format!("bytes={after}-"));
        let version = format!("\"store-{}\"", &place.server.checksum(UNET)[..8]);
        assert_eq!(asked[1].headers["if-range"], version);
        assert_eq!(place.server.sent(UNET), size, "no byte comes twice");
        assert!(place.parts().is_empty());
    }
}

#[test]
fn a_server_without_parts_gives_the_file_anew() {
    let place = Place::new();
    let size = place.server.size(UNET);
    place.server.twist(
        UNET,
        Twist::Cut {
            after: size / 3,
            times: 1,
        },
    );
    place.server.twist(UNET, Twist::NoParts);
    let folder = place.get().unwrap();
    assert!(fs::read(folder.join(UNET)).unwrap() == place.server.content(UNET));
    assert!(
        place.server.content_asked(UNET)[1]
            .headers
            .contains_key("range")
    );
    assert_eq!(place.server.sent(UNET), size / 3 + size);
}

/// The version is another one than the bytes here are of: the server says so by a whole file, or, where it does not heed
/// `If-Range`, by the part's own `ETag`.
#[test]
fn a_file_that_changed_on_the_way_is_begun_anew() {
    let place = Place::new();
    let size = place.server.size(UNET);
    place.server.twist(
        UNET,
        Twist::Cut {
            after: size / 3,
            times: 1,
        },
    );
    place.server.twist(UNET, Twist::Changed);
    let folder = place.get().unwrap();
    assert!(fs::read(folder.join(UNET)).unwrap() == place.server.content(UNET));
    assert_eq!(place.server.sent(UNET), size / 3 + size);

    let place = Place::new();
    place.server.twist(
        UNET,
        Twist::Cut {
            after: size / 3,
            times: 1,
        },
    );
    place.server.twist(UNET, Twist::WrongPart);
    let folder = place.get().unwrap();
    assert!(fs::read(folder.join(UNET)).unwrap() == place.server.content(UNET));
    let asked = place.server.content_asked(UNET);
    let ranges: Vec<_> = asked
        .iter()
        .map(|asked| asked.headers.contains_key("range"))
        .collect();
    assert_eq!(
        ranges,
        [false, true, false],
        "a part that does not fit is not put behind the bytes here"
    );
}

#[test]
fn wrong_bytes_are_refused_and_nothing_of_them_stays() {
    // One is named by SHA-256, the other by Git's own checksum.
    for (path, twist) in [
        (UNET, Twist::WrongByte),
        ("unet/config.json", Twist::WrongByte),
        (UNET, Twist::Longer),
    ] {
        let place = Place::new();
        place.server.twist(path, twist.clone());
        let error = place.get().unwrap_err();
        assert!(
            matches!(&error, LibraryError::WrongContent { file, .. } if file == path),
            "{twist:?}: {error}"
        );
        assert!(error.to_string().contains("thrown away"), "{error}");
        assert!(place.parts().is_empty(), "{twist:?}: {:?}", place.parts());
        place.holds_nothing_half();
        place.server.behave();
        place.get().unwrap();
        assert!(place.library.entry("zeroscope").unwrap().state.is_present());
    }
}

/// What another program left may be the beginning of something else: it is begun anew, without a word.
#[test]
fn what_another_program_left_is_used_or_begun_anew() {
    for (right, sent_more) in [(true, false), (false, true)] {
        let place = Place::new();
        let size = place.server.size(UNET);
        let mut beginning = place.server.content(UNET)[..size / 4].to_vec();
        if !right {
            beginning[100] ^= 1;
        }
        let blobs = place.library.cache.entry(zeroscope().repo).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(
            blobs.join(format!("{}.incomplete", place.server.checksum(UNET))),
            &beginning,
        )
        .unwrap();
        let folder = place.get().unwrap();
        assert!(fs::read(folder.join(UNET)).unwrap() == place.server.content(UNET));
        let rest = size - size / 4;
        assert_eq!(
            place.server.sent(UNET),
            if sent_more { rest + size } else { rest }
        );
    }
}

#[test]
fn a_whole_file_with_wrong_content_is_fetched_again() {
    let place = Place::new();
    let folder = place.get().unwrap();
    let blob = folder.join(UNET).canonicalize().unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let damaged = place.library.check("zeroscope", &mut go_on).unwrap_err();
    assert!(
        matches!(&damaged, LibraryError::Damaged { path, .. } if path.ends_with(UNET)),
        "{damaged}"
    );
    place.get().unwrap();
    assert!(place.library.check("zeroscope", &mut go_on).unwrap() > 5);
    assert_eq!(place.server.sent(UNET), 2 * place.server.size(UNET));
}

#[test]
fn a_slow_download_is_cancelled_at_once_and_goes_on_later() {
    let place = Place::new();
    place.server.twist(UNET, Twist::Slow);
    let plan = place
        .hub
        .plan(zeroscope(), &place.library.cache, &mut go_on)
        .unwrap();
    let mut since: Option<Instant> = None;
    let cancelled = place.library.fetch(&place.hub, &plan, &mut |progress| {
        if progress.file == UNET && place.server.sent(UNET) > 0 && since.is_none() {
            since = Some(Instant::now());
        }
        match since {
            Some(since) if since.elapsed() > Duration::from_millis(200) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(
        matches!(cancelled, Err(LibraryError::Cancelled)),
        "{cancelled:?}"
    );
    assert!(
        since.unwrap().elapsed() < Duration::from_secs(2),
        "it takes its time"
    );
    let part = place.parts();
    assert_eq!(part.len(), 1);
    let here = fs::metadata(&part[0]).unwrap().len();
    assert!(here > 0 && here < place.server.size(UNET) as u64);
    place.holds_nothing_half();
    let state = place.library.entry("zeroscope").unwrap().state;
    assert!(
        matches!(&state, State::Missing { files, here_bytes } if files.contains(&UNET.to_owned()) && *here_bytes > here),
        "{state:?}"
    );
    assert_eq!(state.word(), "unfinished");

    place.server.behave();
    place.get().unwrap();
    let last = place.server.content_asked(UNET).pop().unwrap();
    assert_eq!(last.headers["range"], format!("bytes={here}-"));
}

#[test]
fn a_server_that_falls_silent_is_asked_again() {
    let place = Place::new();
    let size = place.server.size(UNET);
    place.server.twist(
        UNET,
        Twist::Stall {
            after: size / 2,
            times: 1,
        },
    );
    let begun = Instant::now();
    place.get().unwrap();
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "it is given its time"
    );
    assert_eq!(place.server.sent(UNET), size);
}

#[test]
fn a_way_that_brings_nothing_is_given_up() {
    let place = Place::new();
    place.server.twist(
        UNET,
        Twist::Cut {
            after: 1000,
            times: 100,
        },
    );
    let error = place.get().unwrap_err();
    assert!(
        matches!(&error, LibraryError::Dropped { file, .. } if file == UNET),
        "{error}"
    );
    // The first one brought something, four more did not.
    assert_eq!(place.server.content_asked(UNET).len(), 5);
    assert_eq!(place.parts().len(), 1, "what came is kept");
    place.holds_nothing_half();
}

/// In the middle of a file the network goes away, and comes back before patience ends.
#[test]
fn a_network_that_is_gone_for_a_moment_does_not_end_a_download() {
    let place = Place::new();
    let size = place.server.size(UNET);
    let cut = Twist::Cut {
        after: size / 2,
        times: 1,
    };
    place.server.twist(UNET, cut.clone());
    place.server.twist(UNET, Twist::Gone { times: 2 });
    let folder = place.get().unwrap();
    assert!(fs::read(folder.join(UNET)).unwrap() == place.server.content(UNET));
    assert_eq!(place.server.content_asked(UNET).len(), 2);
    assert_eq!(place.server.sent(UNET), size, "no byte comes twice");

    // One that does not come back.
    let place = Place::new();
    place.server.twist(UNET, cut);
    place.server.twist(UNET, Twist::Gone { times: 100 });
    let error = place.get().unwrap_err();
    assert!(
        matches!(&error, LibraryError::Dropped { file, .. } if file == UNET),
        "{error}"
    );
    assert_eq!(place.server.content_asked(UNET).len(), 1);
    assert_eq!(place.parts().len(), 1, "what came is kept");
    place.holds_nothing_half();

    // One that was not there in the first place is told at once.
    let mut place = Place::new();
    let plan = place
        .hub
        .plan(zeroscope(), &place.library.cache, &mut go_on)
        .unwrap();
    place.hub.endpoint = "http://127.0.0.1:1".to_owned();
    let fetched = place.library.fetch(&place.hub, &plan, &mut go_on);
    assert!(
        matches!(fetched, Err(LibraryError::Unreachable { .. })),
        "{fetched:?}"
    );
}

#[test]
fn whoever_is_not_let_in_is_told_how_to_be() {
    for (status, token, says) in [
        (401, None, "accept its licence"),
        (403, None, "accept its licence"),
        (401, Some("hf_secret"), "does not know your token"),
        (
            403,
            Some("hf_secret"),
            "with the account your token belongs to",
        ),
    ] {
        let mut place = Place::new();
        place.hub.token = token.and_then(Token::new);
        let refuse = Twist::Status {
            status,
            headers: vec![("X-Error-Code", "GatedRepo".to_owned())],
            times: 100,
            content: false,
        };
        place.server.twist("", refuse);
        let error = place.get().unwrap_err();
        let (text, advice) = (error.to_string(), error.advice());
        assert!(
            text.contains(&status.to_string()) && text.contains(zeroscope().repo),
            "{text}"
        );
        assert!(advice.contains(says), "{advice}");
        assert!(!format!("{text} {advice} {error:?}").contains("secret"));
        assert_eq!(place.server.asked().len(), 1, "asking again does not help");
        let sent = place.server.asked()[0]
            .headers
            .get("authorization")
            .cloned();
        assert_eq!(sent, token.map(|token| format!("Bearer {token}")));
    }
}

#[test]
fn the_token_does_not_go_where_the_hub_leads() {
    let mut place = Place::new();
    place.hub.token = Token::new("hf_secret");
    let other = Server::with_micro_model();
    place.server.twist(UNET, Twist::Elsewhere(other.address()));
    place.get().unwrap();
    let asked = other.asked();
    assert_eq!(asked.len(), 1, "its content alone comes from there");
    assert_eq!(other.sent(UNET), other.size(UNET));
    assert!(!asked[0].headers.contains_key("authorization"), "{asked:?}");
    let at_hub = place.server.asked();
    assert!(
        at_hub
            .iter()
            .all(|asked| asked.headers["authorization"] == "Bearer hf_secret")
    );
    let list = fs::read_to_string(place.library.registry.path()).unwrap();
    assert!(!list.contains("secret"));
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let place = Place::new();
    place.server.twist(
        "vae/diffusion",
        Twist::Status {
            status: 404,
            headers: vec![("X-Error-Code", "EntryNotFound".to_owned())],
            times: 100,
            content: false,
        },
    );
    let error = place.get().unwrap_err();
    assert!(matches!(error, LibraryError::NotThere { .. }));
    assert!(
        error.to_string().contains("vae/diffusion_pytorch_model"),
        "{error}"
    );
    // Nothing but the micro model is here.
    let plan = place.hub.plan(
        Known::find("sd15").unwrap(),
        &place.library.cache,
        &mut go_on,
    );
    assert!(
        matches!(plan, Err(LibraryError::NotThere { .. })),
        "{plan:?}"
    );
}

#[test]
fn a_hub_that_asks_for_time_is_given_it_within_bounds() {
    let busy = |secs: &str, times: usize, content: bool| Twist::Status {
        status: 429,
        headers: vec![("Retry-After", secs.to_owned())],
        times,
        content,
    };
    for content in [false, true] {
        let place = Place::new();
        place.server.twist(UNET, busy("1", 1, content));
        let begun = Instant::now();
        place.get().unwrap();
        assert!(
            begun.elapsed() >= Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    }
    let place = Place::new();
    place.server.twist(UNET, busy("3600", 100, false));
    let begun = Instant::now();
    let error = place.get().unwrap_err();
    assert!(
        matches!(
            error,
            LibraryError::TooMany {
                retry_secs: Some(3600),
                ..
            }
        ),
        "{error}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "an hour is not waited for"
    );
    let place = Place::new();
    place.server.twist(UNET, busy("0", 100, false));
    assert!(
        matches!(place.get(), Err(LibraryError::TooMany { .. })),
        "nor is it asked without an end"
    );
}

#[test]
fn a_hub_in_trouble_is_asked_again() {
    let trouble = |times| Twist::Status {
        status: 502,
        headers: Vec::new(),
        times,
        content: true,
    };
    let place = Place::new();
    place.server.twist(UNET, trouble(2));
    place.get().unwrap();
    let place = Place::new();
    place.server.twist(UNET, trouble(100));
    let error = place.get().unwrap_err();
    assert!(
        matches!(error, LibraryError::Status { status: 502, .. }),
        "{error}"
    );
    place.holds_nothing_half();
}

#[test]
fn without_a_network_that_is_said_at_once() {
    let mut place = Place::new();
    place.hub.endpoint = "http://127.0.0.1:1".to_owned();
    let begun = Instant::now();
    let error = place.get().unwrap_err();
    assert!(matches!(error, LibraryError::Unreachable { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));

    let mut place = Place::new();
    let plan = place
        .hub
        .plan(zeroscope(), &place.library.cache, &mut go_on)
        .unwrap();
    let before = place.server.asked().len();
    place.hub.offline = true;
    let planned = place
        .hub
        .plan(zeroscope(), &place.library.cache, &mut go_on);
    assert!(matches!(planned, Err(LibraryError::Offline)));
    let fetched = place.library.fetch(&place.hub, &plan, &mut go_on);
    assert!(matches!(fetched, Err(LibraryError::Offline)));
    place.library.entries().unwrap();
    assert_eq!(
        place.server.asked().len(),
        before,
        "offline nothing is asked"
    );
    assert!(!place.library.cache.root().exists());
}

#[test]
fn a_hub_without_checksums_is_not_believed() {
    let place = Place::new();
    place.server.twist(UNET, Twist::NoChecksum);
    let error = place.get().unwrap_err();
    assert!(matches!(error, LibraryError::NoHub { .. }), "{error}");
    assert!(error.to_string().contains("checksum"), "{error}");
    assert_eq!(place.server.sent(""), 0);
}

#[test]
fn two_do_not_fetch_one_file_at_a_time() {
    let place = Place::new();
    let locks = place
        .library
        .cache
        .root()
        .join(".locks/models--cerspense--zeroscope_v2_576w");
    fs::create_dir_all(&locks).unwrap();
    let lock = locks.join(format!("{}.lock", place.server.checksum(UNET)));
    let held = fs::File::create(&lock).unwrap();
    held.try_lock().unwrap();
    let error = place.get().unwrap_err();
    assert!(
        matches!(&error, LibraryError::Busy { file } if file == UNET),
        "{error}"
    );
    assert_eq!(place.server.sent(UNET), 0);
    drop(held);
    place.get().unwrap();
}

#[test]
fn a_place_that_cannot_be_written_is_told() {
    let mut place = Place::new();
    let file = place.folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    place.library.cache = spectral_motion::library::Cache::new(file.join("hub"));
    let error = place.get().unwrap_err();
    assert!(matches!(error, LibraryError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("hub"), "{error}");
    assert_eq!(fs::read_to_string(file).unwrap(), "no folder");
}

/// `/dev/full` refuses every byte, as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_leaves_nothing_half() {
    let place = Place::new();
    let blobs = place.library.cache.entry(zeroscope().repo).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", place.server.checksum(UNET)));
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let error = place.get().unwrap_err();
    assert!(error.is_full_disk(), "{error:?}");
    assert!(error.advice().contains("Make room"), "{}", error.advice());
    place.holds_nothing_half();
}
