//! A training as a line for a terminal: what the window does can be done without it.

use std::path::Path;

use super::request::TrainRequest;
use crate::train::flags_of;

/// The command that does what a request asks for, quoted for this system's shell.
#[must_use]
pub fn command_line(request: &TrainRequest) -> String {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let command = if request.result.is_some() {
        "transfer"
    } else {
        "train"
    };
    let mut words = vec!["spectral-motion".to_owned(), command.to_owned()];
    words.push(path(&request.clip));
    words.extend(request.more_clips.iter().map(|more| path(&more.path)));
    let subjects = request.more_clips.iter().map(|more| &more.subject);
    for subject in std::iter::once(&request.subject).chain(subjects) {
        words.push(format!("--subject={subject}"));
    }
    if let Some(result) = &request.result {
        words.push(format!("--prompt={}", result.prompt));
    }
    let config = &request.config;
    let control = Some(&request.control).filter(|_| config.method.is_controlled());
    let folders = [
        ("--model", request.model.as_deref()),
        (
            "--controlnet",
            control.and_then(|control| control.controlnet.as_deref()),
        ),
        (
            "--condition",
            control.and_then(|control| control.clip.as_deref()),
        ),
    ];
    for (flag, folder) in folders {
        words.extend(folder.map(|folder| format!("{flag}={}", path(folder))));
    }
    words.extend(flags_of(config, request.model.is_none()));
    let words: Vec<_> = words
        .iter()
        .map(|word| quoted(word, cfg!(windows)))
        .collect();
    words.join(" ")
}

/// A word that a shell takes as one: between double quotes on Windows, else between single ones.
fn quoted(word: &str, on_windows: bool) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "_-./:=,+@%".contains(letter);
    let backslash = |letter: char| on_windows && letter == '\\';
    if !word.is_empty()
        && word
            .chars()
            .all(|letter| plain(letter) || backslash(letter))
    {
        return word.to_owned();
    }
    if on_windows {
        format!("\"{}\"", word.replace('"', "\\\""))
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn words_come_through_a_shell_as_they_are() {
        for word in [
            "plain-word_1.mp4",
            "two words",
            "it's",
            "$HOME `ls` \"x\" \\ !",
            "",
            "Kr\u{e4}n*",
        ] {
            let line = format!("printf %s {}", quoted(word, false));
            let shell = std::process::Command::new("sh")
                .args(["-c", &line])
                .output();
            assert_eq!(String::from_utf8_lossy(&shell.unwrap().stdout), word);
        }
    }

    #[test]
    fn words_are_quoted_for_windows() {
        assert_eq!(quoted(r"C:\clips\a.mp4", true), r"C:\clips\a.mp4");
        assert_eq!(
            quoted(r"C:\my clips\a.mp4", true),
            "\"C:\\my clips\\a.mp4\""
        );
        assert_eq!(quoted("say \"x\"", true), r#""say \"x\"""#);
    }
}
