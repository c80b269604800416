//! The layer rules of ARCHITECTURE.md, read from the `use` lines and paths of the source itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room and the rooms it may name. What is not listed here is forbidden.
const MAY_USE: &[(&str, &[&str])] = &[
    ("video", &[]),
    ("motion", &["video"]),
    ("project", &[]),
    ("report", &[]),
    // The allocator, which the program's own file takes.
    ("heap", &[]),
    ("spectral/plain", &[]),
    ("nn", &[]),
    ("evaluate", &["video", "motion", "spectral/plain"]),
    ("viz", &["spectral/plain", "motion", "video"]),
    ("spectral/loss", &["nn", "spectral/plain"]),
    ("schedulers", &["nn"]),
    ("models", &["nn", "schedulers"]),
    ("pipelines", &["nn", "models", "schedulers", "video"]),
    ("methods", &["nn", "models", "schedulers", "spectral/loss"]),
    (
        "train",
        &[
            "nn",
            "models",
            "schedulers",
            "spectral/loss",
            "methods",
            "pipelines",
            "project",
            "report",
        ],
    ),
    ("library", &["train", "methods", "models", "project"]),
    (
        "job",
        &[
            "library",
            "train",
            "pipelines",
            "methods",
            "models",
            "schedulers",
            "nn",
            "spectral/loss",
            "evaluate",
            "video",
            "project",
            "report",
        ],
    ),
    (
        "gui",
        &[
            "viz",
            "job",
            "library",
            "train",
            "pipelines",
            "methods",
            "models",
            "evaluate",
            "video",
            "motion",
            "spectral/plain",
            "project",
            "report",
        ],
    ),
    (
        "cli",
        &[
            "gui",
            "job",
            "library",
            "train",
            "pipelines",
            "methods",
            "models",
            "evaluate",
            "video",
            "motion",
            "spectral/plain",
            "project",
            "report",
        ],
    ),
];

/// Crates that only some rooms may name.
const CRATES: &[(&str, &[&str])] = &[
    ("ffmpeg_next", &["video"]),
    (
        "candle_core",
        &[
            "nn",
            "spectral/loss",
            "schedulers",
            "models",
            "pipelines",
            "methods",
            "train",
            "job",
        ],
    ),
    ("egui", &["gui", "viz"]),
    ("wgpu", &["gui", "viz"]),
    ("clap", &["cli", "train", "methods", "video", "project"]),
    ("indicatif", &["cli"]),
    ("ureq", &["library"]),
    (
        "rayon",
        &["nn", "spectral/loss", "spectral/plain", "motion", "video"],
    ),
];

fn source_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the source folder is readable") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            source_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&root, &mut files);
    files.sort();
    files
        .iter()
        .map(|path| {
            let name = path
                .strip_prefix(&root)
                .expect("below src")
                .to_string_lossy()
                .replace('\\', "/");
            (
                name,
                fs::read_to_string(path).expect("a readable source file"),
            )
        })
        .collect()
}

/// The room a file belongs to: its folder, with `spectral` split in two.
fn room_of(file: &str) -> Option<&str> {
    let room = match file.split_once('/') {
        None => file.strip_suffix(".rs")?,
        Some(("spectral", rest)) => {
            return match rest.split_once('/').map_or(rest, |(first, _)| first) {
                "plain" | "plain.rs" => Some("spectral/plain"),
                "loss" | "loss.rs" => Some("spectral/loss"),
                _ => None,
            };
        }
        Some((room, _)) => room,
    };
    (!matches!(room, "lib" | "main")).then_some(room)
}

/// Code without comments, so that documentation may mention any room.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.split("//").next().unwrap_or_default()))
}

/// Rooms named by one line as `crate::room` (also inside `crate::{..}` on that line).
fn rooms_named(line: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    let mut rest = line;
    while let Some(at) = rest.find("crate::") {
        rest = &rest[at + "crate::".len()..];
        let list = rest
            .strip_prefix('{')
            .and_then(|r| r.split_once('}'))
            .map_or(rest, |(inside, _)| inside);
        let parts: Vec<&str> = if rest.starts_with('{') {
            list.split(',').collect()
        } else {
            vec![list]
        };
        for part in parts {
            let part = part.trim().trim_start_matches('{');
            for (room, _) in MAY_USE {
                let path = room.replace('/', "::");
                if part == path
                    || part
                        .strip_prefix(path.as_str())
                        .is_some_and(|r| !r.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
                {
                    found.insert(*room);
                }
            }
        }
    }
    found
}

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let mut broken = Vec::new();
    for (file, text) in sources() {
        let Some(room) = room_of(&file) else { continue };
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == room) else {
            broken.push(format!(
                "src/{file}: the room '{room}' has no rule in tests/architecture.rs"
            ));
            continue;
        };
        for (number, line) in code_lines(&text) {
            for named in rooms_named(line) {
                if named != room && !allowed.contains(&named) {
                    broken.push(format!(
                        "src/{file}:{number}: {room} may not use {named}: {}",
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(
        broken.is_empty(),
        "layer rules broken:\n{}",
        broken.join("\n")
    );
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut broken = Vec::new();
    for (file, text) in sources() {
        let room = room_of(&file).unwrap_or("");
        for (name, rooms) in CRATES {
            if rooms.contains(&room) || file == "main.rs" {
                continue;
            }
            for (number, line) in code_lines(&text) {
                let path = format!("{name}::");
                let import = format!("use {name}");
                if line.contains(&path) || line.contains(&import) {
                    broken.push(format!(
                        "src/{file}:{number}: only {rooms:?} may use {name}: {}",
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(
        broken.is_empty(),
        "crate rules broken:\n{}",
        broken.join("\n")
    );
}

#[test]
fn source_files_stay_readable() {
    // 600 lines is the house's aim; 700 is where a file is certainly two rooms.
    let long: Vec<String> = sources()
        .iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > 700)
        .map(|(file, lines)| format!("src/{file}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "split these files: {long:?}");
}

#[test]
fn the_rules_see_what_they_forbid() {
    assert_eq!(
        rooms_named("use crate::{nn, models::Weights};")
            .into_iter()
            .collect::<Vec<_>>(),
        ["models", "nn"]
    );
    assert_eq!(
        rooms_named("let x = crate::spectral::loss::cosine();")
            .into_iter()
            .collect::<Vec<_>>(),
        ["spectral/loss"]
    );
    assert!(
        rooms_named("use crate::nnx::y;").is_empty(),
        "a longer name is another room"
    );
    assert_eq!(room_of("spectral/plain/dwt.rs"), Some("spectral/plain"));
    assert_eq!(room_of("lib.rs"), None);
}

#[test]
fn the_documents_a_reader_expects_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "deny.toml",
        "clippy.toml",
        "x",
    ] {
        assert!(root.join(name).is_file(), "{name} is missing");
    }
    // Every room has its line in the map.
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("a readable map");
    for (room, _) in MAY_USE {
        let first = room.split('/').next().unwrap_or(room);
        assert!(
            map.contains(&format!("{first}/")) || map.contains(&format!("{first}.rs")),
            "ARCHITECTURE.md says nothing of {room}"
        );
    }
}
