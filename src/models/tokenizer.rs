//! CLIP's tokenizer: words to token ids. Source: spec sections 3 and 5; `CLIPTokenizer` of transformers.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::error::{ModelError, shown};
use super::layout::incomplete;
use super::source::FileSource;

/// Tokens of a CLIP prompt, with its start and end.
const MAX_TOKENS: usize = 77;
const START_OF_TEXT: &str = "<|startoftext|>";
const END_OF_TEXT: &str = "<|endoftext|>";
/// What CLIP cuts a prompt into before byte pairs are merged.
const CLIP_WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Byte-pair tokenizer of CLIP's text model.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    length: usize,
}

impl ClipTokenizer {
    /// Reads a `tokenizer` folder: `vocab.json` and `merges.txt`, or `tokenizer.json` where they are missing. Of the latter
    /// only words and merges are read: all else in it is the same for every CLIP, and a stranger's file could say anything.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the vocabulary lacks the tokens around a prompt.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        Self::from_source(&FileSource::Dir(dir.to_owned()), "")
    }

    /// As [`Self::from_dir`] for the subfolder `folder` of a model (`""` for its top).
    ///
    /// # Errors
    /// As [`Self::from_dir`].
    pub fn from_source(source: &FileSource, folder: &str) -> Result<Self, ModelError> {
        let files = tokenizer_files(source, folder)?;
        let settings = Settings::read(source, folder)?;
        let words = match files.as_slice() {
            [vocab, merges] => Words::from_pair(source, vocab, merges)?,
            _ => Words::from_whole(source, &files[0])?,
        };
        let file = &files[0];
        let id = |token: &str| {
            let missing = || {
                source.config_error(
                    file,
                    format!("the vocabulary has no token {}", shown(token)),
                )
            };
            words.vocab.get(token).copied().ok_or_else(missing)
        };
        let (start, end, pad) = (id(&settings.start)?, id(&settings.end)?, id(&settings.pad)?);
        let tokenizer = Tokenizer::from_bytes(words.tokenizer(&settings))
            .map_err(|e| source.config_error(file, e))?;
        Ok(Self {
            start,
            end,
            pad,
            length: settings.length,
            tokenizer,
        })
    }

    /// Token ids of a prompt: start, at most 75 tokens, end, padded to the model's length (77).
    ///
    /// # Errors
    /// When a character cannot be expressed with the vocabulary.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, ModelError> {
        let unreadable = |e: tokenizers::Error| ModelError::Config {
            file: "the prompt".to_owned(),
            why: e.to_string(),
        };
        let encoding = self
            .tokenizer
            .encode_fast(prompt, false)
            .map_err(unreadable)?;
        let mut ids = vec![self.start];
        ids.extend(encoding.get_ids().iter().take(self.length - 2));
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        Ok(ids)
    }

    /// How many tokens of a prompt are its own, without start, end and padding. More than [`Self::capacity`] are cut.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn count(&self, prompt: &str) -> Result<usize, ModelError> {
        let unreadable = |e: tokenizers::Error| ModelError::Config {
            file: "the prompt".to_owned(),
            why: e.to_string(),
        };
        Ok(self
            .tokenizer
            .encode_fast(prompt, false)
            .map_err(unreadable)?
            .len())
    }

    /// How many tokens of a prompt the model sees.
    pub fn capacity(&self) -> usize {
        self.length - 2
    }
}

/// Special tokens and length.
struct Settings {
    start: String,
    end: String,
    pad: String,
    length: usize,
}

impl Settings {
    /// Each token is looked up in `special_tokens_map.json` first, then in `tokenizer_config.json`; padding falls back
    /// to the end of the text. SD-2 style tokenizers pad with "!", and the padding takes part in attention.
    fn read(source: &FileSource, folder: &str) -> Result<Self, ModelError> {
        let json = |name: &str| {
            let file = inside(folder, name);
            match source.has(&file) {
                true => serde_json::from_str(&source.text(&file)?)
                    .map_err(|e| source.config_error(&file, e)),
                false => Ok(Value::Null),
            }
        };
        let map: Value = json("special_tokens_map.json")?;
        let config: Value = json("tokenizer_config.json")?;
        // A token is written as its text or as an object with flags around it.
        let text = |value: &Value| {
            Some(
                value
                    .as_str()
                    .or_else(|| value["content"].as_str())?
                    .to_owned(),
            )
        };
        let token = |name: &str| text(&map[name]).or_else(|| text(&config[name]));
        let end = token("eos_token").unwrap_or_else(|| END_OF_TEXT.to_owned());
        // Some files give a length of 1e30 for "no limit"; CLIP has 77 positions.
        let length = config["model_max_length"]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(MAX_TOKENS);
        Ok(Self {
            start: token("bos_token").unwrap_or_else(|| START_OF_TEXT.to_owned()),
            pad: token("pad_token").unwrap_or_else(|| end.clone()),
            end,
            length: length.clamp(2, MAX_TOKENS),
        })
    }
}

fn inside(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// The files of a tokenizer: `vocab.json` and `merges.txt`, or `tokenizer.json` alone.
///
/// # Errors
/// [`ModelError::Incomplete`] when there are neither.
pub(super) fn tokenizer_files(
    source: &FileSource,
    folder: &str,
) -> Result<Vec<String>, ModelError> {
    let pair = ["vocab.json", "merges.txt"].map(|name| inside(folder, name));
    let whole = inside(folder, "tokenizer.json");
    if pair.iter().all(|file| source.has(file)) {
        return Ok(pair.into());
    }
    if source.has(&whole) {
        return Ok(vec![whole]);
    }
    let [vocab, merges] = pair;
    Err(incomplete(
        source,
        vec![format!("{vocab} and {merges}, or {whole}")],
    ))
}

/// The words of a byte-pair tokenizer.
struct Words {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Two tokens that become one; newer files write them apart.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair([String; 2]),
    Line(String),
}

/// Left and right of a line.
fn two_tokens(line: &str) -> Option<[&str; 2]> {
    let (left, right) = line.split_once(' ')?;
    let whole = !left.is_empty() && !right.is_empty() && !right.contains(' ');
    whole.then_some([left, right])
}

impl Words {
    fn from_pair(source: &FileSource, vocab: &str, merges: &str) -> Result<Self, ModelError> {
        let words: HashMap<String, u32> = serde_json::from_str(&source.text(vocab)?)
            .map_err(|e| source.config_error(vocab, e))?;
        let mut pairs = Vec::new();
        for (i, line) in source.text(merges)?.lines().enumerate() {
            if line.is_empty() || (i == 0 && line.starts_with("#version")) {
                continue;
            }
            let pair = two_tokens(line).ok_or_else(|| {
                source.config_error(merges, format!("line {} is not a pair of tokens", i + 1))
            })?;
            pairs.push(Merge::Pair(pair.map(str::to_owned)));
        }
        Ok(Self {
            vocab: words,
            merges: pairs,
        })
    }

    fn from_whole(source: &FileSource, file: &str) -> Result<Self, ModelError> {
        #[derive(Deserialize)]
        struct Whole {
            model: Model,
        }
        #[derive(Deserialize)]
        struct Model {
            r#type: Option<String>,
            vocab: HashMap<String, u32>,
            merges: Vec<Merge>,
        }
        let Whole { model } =
            serde_json::from_str(&source.text(file)?).map_err(|e| source.config_error(file, e))?;
        if let Some(kind) = model.r#type.filter(|kind| kind != "BPE") {
            let why = format!("its tokens are made by {}, CLIP's by BPE", shown(&kind));
            return Err(source.config_error(file, why));
        }
        let broken =
            |merge: &&Merge| matches!(merge, Merge::Line(line) if two_tokens(line).is_none());
        match model.merges.iter().position(|merge| broken(&merge)) {
            Some(i) => {
                Err(source.config_error(file, format!("merge {} is not a pair of tokens", i + 1)))
            }
            None => Ok(Self {
                vocab: model.vocab,
                merges: model.merges,
            }),
        }
    }

    /// A `tokenizer.json` of CLIP for these words: the same text transformers would write. The tokens around a prompt and
    /// the padding are tokens wherever they stand in it, also inside a word: "!" in a prompt is the padding of SD 2.
    fn tokenizer(&self, settings: &Settings) -> String {
        let special = |token: &str| {
            let id = self.vocab.get(token)?;
            Some(
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true}),
            )
        };
        let Settings {
            start, end, pad, ..
        } = settings;
        let mut names = vec![START_OF_TEXT, END_OF_TEXT];
        for token in [start, end, pad] {
            if !names.contains(&token.as_str()) {
                names.push(token);
            }
        }
        let added: Vec<Value> = names.into_iter().filter_map(special).collect();
        let merges: Vec<[&str; 2]> = self
            .merges
            .iter()
            .filter_map(|merge| match merge {
                Merge::Pair([left, right]) => Some([left.as_str(), right]),
                Merge::Line(line) => two_tokens(line),
            })
            .collect();
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": CLIP_WORDS}, "behavior": "Removed", "invert": true},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            ]},
            "model": {"type": "BPE", "unk_token": END_OF_TEXT, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "</w>", "fuse_unk": false, "vocab": self.vocab, "merges": merges},
        });
        tokenizer.to_string()
    }
}
