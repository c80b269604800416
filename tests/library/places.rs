//! Where models are: added folders, the cache, and taking them away again.

use std::fs;
use std::path::Path;

use spectral_motion::library::{Entry, Kind, Known, LibraryError, Removed, State};
use spectral_motion::models::ModelFolder;

use super::{Place, files_in, go_on, zeroscope};
use crate::common::{golden, image_model, micro_model};

fn names(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

#[test]
fn what_is_known_is_listed_before_anything_is_here() {
    let place = Place::new();
    let entries = place.library.entries().unwrap();
    assert_eq!(
        names(&entries),
        [
            "zeroscope",
            "modelscope",
            "sd14",
            "sd15",
            "controlnet-canny",
            "controlnet-depth",
            "controlnet-hed",
            "controlnet-openpose",
            "depth-anything-small"
        ]
    );
    for entry in &entries {
        let State::Missing {
            files,
            here_bytes: 0,
        } = &entry.state
        else {
            panic!("{entry:?}");
        };
        assert_eq!(files.len(), entry.known.unwrap().files.len());
    }
    assert!(place.server.asked().is_empty());
    assert!(
        !place.folder.path().join("data").exists(),
        "looking writes nothing"
    );
}

#[test]
fn folders_are_added_found_checked_and_forgotten() {
    let place = Place::new();
    let library = &place.library;
    let added = library.add(&micro_model(), Some("micro")).unwrap();
    assert_eq!(
        library.find(Path::new("micro")).unwrap(),
        Some(added.folder.clone())
    );
    assert!(library.entry("micro").unwrap().state.is_present());
    assert_eq!(
        library.check("micro", &mut go_on).unwrap(),
        0,
        "no checksums are known"
    );
    // The same again changes nothing; another folder under the name is refused.
    library.add(&micro_model(), Some("micro")).unwrap();
    let taken = library.add(&image_model(), Some("micro"));
    assert!(matches!(taken, Err(LibraryError::Taken { .. })));
    // A ControlNet alone is no model, but can be added.
    let control = library
        .add(&image_model().join("controlnet"), Some("edges"))
        .unwrap();
    assert_eq!(
        library.find(Path::new("edges")).unwrap(),
        Some(control.folder)
    );
    assert_eq!(names(&library.entries().unwrap())[9..], ["micro", "edges"]);
    // So can an estimator of depth.
    library.add(&golden("depth"), Some("near")).unwrap();
    let near = library.entry("near").unwrap();
    assert_eq!(
        (near.kind, near.state.word()),
        (Some(Kind::Depth), "present")
    );
    library.remove("near").unwrap();

    for name in ["", "a b", "../x", "builtin", "ä"] {
        let refused = library.add(&micro_model(), Some(name));
        assert!(
            matches!(refused, Err(LibraryError::BadName { .. })),
            "{name}"
        );
    }
    for folder in [
        golden("micro"),
        micro_model().join("unet"),
        "/no/such/folder".into(),
    ] {
        let error = library.add(&folder, Some("other")).unwrap_err();
        assert!(
            matches!(error, LibraryError::Model(_)),
            "{}: {error}",
            folder.display()
        );
    }

    let removed = library.remove("micro").unwrap();
    assert_eq!(removed, Removed::Folder(added.folder));
    assert!(
        micro_model().join("model_index.json").is_file(),
        "the folder stays"
    );
    assert!(matches!(
        library.entry("micro"),
        Err(LibraryError::Unknown { .. })
    ));
    assert!(matches!(
        library.remove("micro"),
        Err(LibraryError::Unknown { .. })
    ));
}

/// A folder anywhere on the disk can stand for a model of the catalogue, if it is one of its kind.
#[test]
fn a_folder_stands_for_a_known_model() {
    let place = Place::new();
    let wrong = place.library.add(&image_model(), Some("zeroscope"));
    assert!(matches!(wrong, Err(LibraryError::Model(_))), "{wrong:?}");
    place
        .library
        .add(&micro_model(), Some("zeroscope"))
        .unwrap();
    place.library.add(&image_model(), Some("sd15")).unwrap();
    for name in [
        "zeroscope",
        "cerspense/zeroscope_v2_576w",
        "runwayml/stable-diffusion-v1-5",
    ] {
        let entry = place.library.entry(name).unwrap();
        assert!(entry.is_added && entry.state.is_present(), "{entry:?}");
        assert_eq!(place.library.find(Path::new(name)).unwrap(), entry.folder);
    }
    assert_eq!(place.library.entries().unwrap().len(), 9);
    assert!(matches!(
        place.library.remove("zeroscope").unwrap(),
        Removed::Folder(_)
    ));
    let error = place.library.find(Path::new("zeroscope")).unwrap_err();
    assert!(matches!(error, LibraryError::NotHere { .. }), "{error}");
    assert!(
        error.advice().contains("models get zeroscope"),
        "{}",
        error.advice()
    );
    // A name that nobody knows may be a folder's.
    assert_eq!(
        place.library.find(Path::new("elsewhere/model")).unwrap(),
        None
    );
}

/// What is wrong is named with its file.
#[test]
fn what_is_missing_or_broken_is_named() {
    let place = Place::new();
    let folder = place.get().unwrap();
    let state = || place.library.entry("zeroscope").unwrap().state;
    assert_eq!(state(), State::Present);

    let config = folder.join("vae/config.json");
    let kept = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    let State::Missing { files, .. } = state() else {
        panic!("{:?}", state());
    };
    assert_eq!(files, ["vae/config.json"]);
    fs::write(&config, "{").unwrap();
    let State::Broken { why, .. } = state() else {
        panic!("{:?}", state());
    };
    assert!(why.contains("vae/config.json"), "{why}");
    fs::write(&config, kept).unwrap();
    assert_eq!(state(), State::Present);

    let weights = folder.join("text_encoder/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::remove_file(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 8]).unwrap();
    let State::Broken { why, .. } = state() else {
        panic!("{:?}", state());
    };
    assert!(why.contains("text_encoder/model.safetensors"), "{why}");
    let checked = place.library.check("zeroscope", &mut go_on);
    assert!(
        matches!(checked, Err(LibraryError::Model(_))),
        "{checked:?}"
    );
}

/// What other programs put into the cache is used, under an earlier name as well, and not removed.
#[test]
fn what_other_programs_downloaded_is_found_and_left_alone() {
    let place = Place::new();
    let known = Known::find("modelscope").unwrap();
    let entry = place.library.cache.entry(known.former[0]);
    let version = entry.join("snapshots/0123abcd");
    copy(&micro_model(), &version);
    fs::create_dir_all(entry.join("refs")).unwrap();
    fs::write(entry.join("refs/main"), "0123abcd\n").unwrap();
    let found = place.library.entry("modelscope").unwrap();
    assert!(found.state.is_present() && !found.is_added, "{found:?}");
    assert_eq!(found.folder, Some(version.clone()));
    assert_eq!(
        place.library.find(Path::new("modelscope")).unwrap(),
        Some(version.clone())
    );
    let error = place.library.remove("modelscope").unwrap_err();
    assert!(
        matches!(
            error,
            LibraryError::NotOurs { .. } | LibraryError::NotHere { .. }
        ),
        "{error}"
    );
    assert!(version.join("model_index.json").is_file());
}

#[test]
fn only_what_was_downloaded_here_is_removed() {
    let place = Place::new();
    let folder = place.get().unwrap();
    let entry = place.library.cache.entry(zeroscope().repo);
    // Another program has a version of its own that shares a blob.
    let theirs = entry.join("snapshots/abcd/unet");
    fs::create_dir_all(&theirs).unwrap();
    let shared = folder.join("unet/config.json").canonicalize().unwrap();
    fs::hard_link(&shared, theirs.join("kept.json")).unwrap();
    #[cfg(unix)]
    {
        fs::remove_file(theirs.join("kept.json")).unwrap();
        let target = Path::new("../../../blobs").join(shared.file_name().unwrap());
        std::os::unix::fs::symlink(target, theirs.join("kept.json")).unwrap();
    }
    let Removed::Files { files, bytes, .. } = place.library.removal("zeroscope").unwrap() else {
        panic!("files were downloaded");
    };
    assert_eq!(files, zeroscope().files.len() - 1);
    assert!(bytes > 100_000);
    assert!(folder.exists(), "asking removes nothing");
    place.library.remove("zeroscope").unwrap();
    assert!(!folder.exists());
    assert_eq!(files_in(&entry.join("blobs")), [shared]);
    fs::read(theirs.join("kept.json")).unwrap();
    assert!(!entry.join("refs/main").exists());
    let again = place.library.remove("zeroscope");
    assert!(
        matches!(again, Err(LibraryError::NotOurs { .. })),
        "{again:?}"
    );
}

#[test]
fn what_another_program_is_downloading_is_not_removed() {
    let place = Place::new();
    let folder = place.get().unwrap();
    let vae = "vae/diffusion_pytorch_model.safetensors";
    let lock = place.library.cache.root().join(format!(
        ".locks/models--cerspense--zeroscope_v2_576w/{}.lock",
        place.server.checksum(vae)
    ));
    let held = fs::File::create(&lock).unwrap();
    held.try_lock().unwrap();
    let error = place.library.remove("zeroscope").unwrap_err();
    assert!(
        matches!(&error, LibraryError::Busy { file } if file == vae),
        "{error}"
    );
    // Not a file of it is gone, and what was downloaded here is still known to have been.
    assert!(place.library.check("zeroscope", &mut go_on).unwrap() > 5);
    assert!(folder.join(vae).is_file());
    drop(held);
    place.library.remove("zeroscope").unwrap();
    assert!(!folder.exists());
    assert!(lock.is_file(), "another program may be waiting for it");
}

/// A ControlNet and an estimator of depth as other programs download them: the cache's folder of the one model is named.
#[test]
fn a_network_in_the_cache_is_added_by_the_folder_of_its_model() {
    let place = Place::new();
    for (model, repo, kind) in [
        (
            image_model().join("controlnet"),
            "lllyasviel/sd-controlnet-canny",
            Kind::ControlNet,
        ),
        (
            golden("depth"),
            "depth-anything/Depth-Anything-V2-Small-hf",
            Kind::Depth,
        ),
    ] {
        let entry = place.library.cache.entry(repo);
        copy(&model, &entry.join("snapshots/0123abcd"));
        // An older version, which is not the one in use.
        fs::create_dir_all(entry.join("snapshots/4567ef")).unwrap();
        fs::write(entry.join("snapshots/4567ef/config.json"), "{}").unwrap();
        let two = place.library.add(&entry, Some("two")).unwrap_err();
        assert!(two.to_string().contains("2 versions"), "{two}");
        fs::create_dir_all(entry.join("refs")).unwrap();
        fs::write(entry.join("refs/main"), "0123abcd\n").unwrap();
        place.library.add(&entry, Some("one")).unwrap();
        let one = place.library.entry("one").unwrap();
        assert_eq!((one.kind, one.state), (Some(kind), State::Present));
        if kind == Kind::ControlNet {
            let model = ModelFolder::open(&image_model()).unwrap();
            let led = model.with_controlnet(&entry).unwrap();
            let version = entry.join("snapshots/0123abcd");
            assert_eq!(led.controlnet_dir(), Some(version));
        }
        place.library.remove("one").unwrap();
    }
}

#[test]
fn nothing_is_left_of_a_download_that_is_removed() {
    let place = Place::new();
    // One that did not end, then one that did.
    let size = place
        .server
        .size("unet/diffusion_pytorch_model.safetensors");
    let cut = super::server::Twist::Cut {
        after: size / 2,
        times: 100,
    };
    place.server.twist("unet/diffusion", cut);
    place.get().unwrap_err();
    assert_eq!(place.parts().len(), 1);
    place.library.remove("zeroscope").unwrap();
    let left = || {
        files_in(place.library.cache.root())
            .into_iter()
            .filter(|path| path.file_name().unwrap() != ".locks")
            .collect::<Vec<_>>()
    };
    assert_eq!(left(), [] as [&Path; 0]);
    place.server.behave();
    place.get().unwrap();
    place.library.remove("zeroscope").unwrap();
    assert_eq!(left(), [] as [&Path; 0]);
    let state = place.library.entry("zeroscope").unwrap().state;
    assert!(
        matches!(state, State::Missing { here_bytes: 0, .. }),
        "{state:?}"
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
