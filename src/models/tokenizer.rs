//! CLIP's tokenizer: words to token ids. Source: spec sections 3 and 5; `CLIPTokenizer` of transformers.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::error::ModelError;
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
    /// Reads a `tokenizer` folder: `vocab.json` and `merges.txt`, or `tokenizer.json` where they are missing.
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
        let at = |name: &str| {
            if folder.is_empty() {
                name.to_owned()
            } else {
                format!("{folder}/{name}")
            }
        };
        let (vocab, merges, whole) = (at("vocab.json"), at("merges.txt"), at("tokenizer.json"));
        let (text, file) = if source.has(&vocab) && source.has(&merges) {
            (clip_tokenizer(source, &vocab, &merges)?, vocab)
        } else if source.has(&whole) {
            (source.text(&whole)?, whole)
        } else {
            let missing = vec![format!("{vocab} and {merges}, or {whole}")];
            return Err(ModelError::NotAModelFolder {
                path: source.locate(""),
                missing,
            });
        };
        let tokenizer = Tokenizer::from_bytes(text).map_err(|e| source.config_error(&file, e))?;
        let settings = Settings::read(
            source,
            &at("special_tokens_map.json"),
            &at("tokenizer_config.json"),
        )?;
        let id = |token: &str| {
            let missing =
                || source.config_error(&file, format!("the vocabulary has no token {token}"));
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        let (start, end, pad) = (id(&settings.start)?, id(&settings.end)?, id(&settings.pad)?);
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
    fn read(source: &FileSource, map: &str, config: &str) -> Result<Self, ModelError> {
        let json = |file: &str| match source.has(file) {
            true => {
                serde_json::from_str(&source.text(file)?).map_err(|e| source.config_error(file, e))
            }
            false => Ok(Value::Null),
        };
        let (map, config): (Value, Value) = (json(map)?, json(config)?);
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

/// A `tokenizer.json` of CLIP for this vocabulary: the same text transformers would write.
fn clip_tokenizer(
    source: &FileSource,
    vocab_file: &str,
    merges_file: &str,
) -> Result<String, ModelError> {
    let vocab: HashMap<String, u32> = serde_json::from_str(&source.text(vocab_file)?)
        .map_err(|e| source.config_error(vocab_file, e))?;
    let merges_text = source.text(merges_file)?;
    let mut merges = Vec::new();
    for (i, line) in merges_text.lines().enumerate() {
        if line.is_empty() || (i == 0 && line.starts_with("#version")) {
            continue;
        }
        match line.split_once(' ') {
            Some((left, right))
                if !left.is_empty() && !right.is_empty() && !right.contains(' ') =>
            {
                merges.push([left, right]);
            }
            _ => {
                return Err(source.config_error(
                    merges_file,
                    format!("line {} is not a pair of tokens", i + 1),
                ));
            }
        }
    }
    let special = |token: &str| {
        let id = vocab.get(token)?;
        Some(
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}),
        )
    };
    let added: Vec<Value> = [START_OF_TEXT, END_OF_TEXT]
        .into_iter()
        .filter_map(special)
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
                  "end_of_word_suffix": "</w>", "fuse_unk": false, "vocab": vocab, "merges": merges},
    });
    Ok(tokenizer.to_string())
}
