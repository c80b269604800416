//! CLIP's tokenizer. Its ids are compared with transformers' in the parity test; here are the files around it.

use std::fs;
use std::path::Path;

use spectral_motion::models::ClipTokenizer;
use tempfile::TempDir;

use super::micro;

fn copy(files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(micro().join("tokenizer").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn ids(dir: &Path, prompt: &str) -> Vec<u32> {
    ClipTokenizer::from_dir(dir)
        .unwrap()
        .encode(prompt)
        .unwrap()
}

#[test]
fn both_kinds_of_files_give_the_same_ids() {
    let (pair, whole) = (
        copy(&["vocab.json", "merges.txt"]),
        copy(&["tokenizer.json"]),
    );
    for prompt in [
        "",
        "The CAR is running",
        "it's  1984!\t\u{a0}done",
        "e\u{301}te\u{301} ÉTÉ",
        "<|endoftext|> inside <|startoftext|>",
        "🚗🚗 ١٢٣ ⅷ ǅ",
        "\u{0}\u{7f}",
    ] {
        assert_eq!(
            ids(pair.path(), prompt),
            ids(whole.path(), prompt),
            "{prompt:?}"
        );
    }
}

#[test]
fn padding_is_looked_up_in_order() {
    let dir = copy(&["vocab.json", "merges.txt"]);
    // The vocabulary of the micro model: "!" is 33 among the byte symbols, the last token ends a text.
    let pad = |dir: &Path| *ids(dir, "car").last().unwrap();
    assert_eq!(pad(dir.path()), 527);
    fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"pad_token": {"content": "\"", "lstrip": false}}"#,
    )
    .unwrap();
    assert_eq!(pad(dir.path()), 34);
    fs::write(
        dir.path().join("special_tokens_map.json"),
        r#"{"pad_token": "!"}"#,
    )
    .unwrap();
    assert_eq!(pad(dir.path()), 33);
    fs::write(
        dir.path().join("special_tokens_map.json"),
        r#"{"pad_token": "no such token"}"#,
    )
    .unwrap();
    let error = ClipTokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("the vocabulary has no token no such token"),
        "{error}"
    );
}

/// The ids are those of `CLIPTokenizer` (transformers 5.23) with the same four files. What pads is a token of its own
/// wherever it stands, so that an exclamation mark in a prompt is no word's end.
#[test]
fn the_padding_of_stable_diffusion_2_is_a_token_inside_a_prompt_too() {
    let dir = copy(&["vocab.json", "merges.txt"]);
    let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let end = r#"{"content": "<|endoftext|>", "lstrip": false, "normalized": true, "rstrip": false, "single_word": false}"#;
    let start = end.replace("endof", "startof");
    file(
        "special_tokens_map.json",
        &format!(
            r#"{{"bos_token": {start}, "eos_token": {end}, "pad_token": "!", "unk_token": {end}}}"#
        ),
    );
    file(
        "tokenizer_config.json",
        r#"{"model_max_length": 77, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}"#,
    );
    for (prompt, expected) in [
        ("", &[526, 527][..]),
        ("A bear, running!", &[526, 353, 516, 300, 525, 33, 527]),
        ("stop!go", &[526, 115, 116, 111, 368, 33, 103, 367, 527]),
        ("wow!!! car", &[526, 119, 111, 375, 33, 33, 33, 513, 527]),
        ("! car", &[526, 33, 513, 527]),
        ("Car ! car", &[526, 513, 33, 513, 527]),
    ] {
        let mut padded = expected.to_vec();
        padded.resize(77, 33);
        assert_eq!(ids(dir.path(), prompt), padded, "{prompt:?}");
    }
}

#[test]
fn prompts_are_cut_and_filled_to_the_models_length() {
    let dir = copy(&["vocab.json", "merges.txt"]);
    let tokenizer = ClipTokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.capacity(), 75);
    for words in [0, 1, 74, 75, 76, 500] {
        let prompt = "car ".repeat(words);
        let ids = tokenizer.encode(&prompt).unwrap();
        let kept = words.min(75);
        assert_eq!(ids.len(), 77);
        assert_eq!((ids[0], ids[kept + 1]), (526, 527), "{words} words");
        assert!(
            ids[1..=kept].iter().all(|id| *id == ids[1])
                && ids[kept + 1..].iter().all(|id| *id == 527)
        );
        assert_eq!(tokenizer.count(&prompt).unwrap(), words);
    }
    // Files may say "no limit" as 1e30, or a shorter length.
    fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"model_max_length": 1e30}"#,
    )
    .unwrap();
    assert_eq!(ids(dir.path(), "car").len(), 77);
    fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"model_max_length": 9}"#,
    )
    .unwrap();
    assert_eq!(ids(dir.path(), "car").len(), 9);
}

#[test]
fn damaged_files_are_refused_in_words() {
    let message = |dir: &TempDir| ClipTokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message(&copy(&["vocab.json"])).contains("merges.txt, or tokenizer.json missing"));
    let dir = copy(&["vocab.json", "merges.txt"]);
    fs::write(
        dir.path().join("merges.txt"),
        "#version: 0.2\nc a\nlonely\n",
    )
    .unwrap();
    assert!(
        message(&dir).contains("line 3 is not a pair of tokens"),
        "{}",
        message(&dir)
    );
    fs::write(dir.path().join("merges.txt"), "not inthe\n").unwrap();
    assert!(
        message(&dir).contains("could not be understood"),
        "{}",
        message(&dir)
    );
    let dir = copy(&["vocab.json", "merges.txt"]);
    fs::write(dir.path().join("vocab.json"), r#"{"a": 0, "a</w>": 1}"#).unwrap();
    fs::write(dir.path().join("merges.txt"), "").unwrap();
    assert!(
        message(&dir).contains("the vocabulary has no token <|startoftext|>"),
        "{}",
        message(&dir)
    );
    let dir = copy(&["tokenizer.json"]);
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert!(
        message(&dir).contains("could not be understood"),
        "{}",
        message(&dir)
    );
}
