//! What the stages of one job share: the model folder, the clips' latents, the words' embeddings, the run's record.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::context::JobContext;
use super::message::Stage;
use super::problem::{Halt, tensors};
use super::saved::WeightsAbout;
use crate::models::{AutoencoderKL, ModelFolder};
use crate::nn;
use crate::pipelines;
use crate::project::{LoraRecord, PlainTensor, RunFolder, RunRecord, TensorFile, sha256_hex};
use crate::report::{Area, Report};
use crate::train::{Item, TransferConfig, plain_from_tensor, tensor_from_plain};
use crate::video::{Clip, Frame};

/// The record of a transfer run.
pub(super) type Record = RunRecord<TransferConfig>;

/// Shared by the stages of one job.
pub(super) struct Session {
    pub(super) folder: ModelFolder,
    pub(super) device: Device,
    pub(super) record: Record,
    /// Settings of the training, where those of the record are now others for a sample.
    pub(super) trained_settings: Option<TransferConfig>,
    /// Steps that the weights have seen, where those are not all of the settings'.
    pub(super) trained_steps: Option<u32>,
    /// Whether what is sampled is a preview.
    pub(super) preview: bool,
    /// LoRA files that were added to the folder's weights.
    pub(super) loras: Vec<LoraRecord>,
    /// Clean latents of each clip, `[1, c, f, h, w]`, times the VAE's scaling factor; at least one, all of one shape.
    latents: Vec<Tensor>,
    /// What steers the ControlNet, a clip each: `[1, 3, f, h, w]` in 0 to 1. None for other methods.
    controls: Vec<Tensor>,
    /// Text embeddings `[1, n, d]` by their words.
    texts: BTreeMap<String, Tensor>,
    /// Mapped when the first picture is wanted.
    vae: Option<AutoencoderKL>,
}

/// What the cache file says about itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheHeader {
    texts: Vec<String>,
    /// Of all of it: a changed number would train another motion, and nobody would know.
    #[serde(default)]
    sha256: Option<String>,
}

impl Session {
    /// Encodes the clips and the words, then lets the encoders go.
    pub(super) fn encode(
        job: &mut JobContext,
        folder: ModelFolder,
        device: Device,
        record: Record,
        clips: &[&Clip],
        controls: &[Vec<Frame>],
    ) -> Result<Self, Halt> {
        let total = clips.iter().map(|clip| clip.frames.len()).sum();
        job.stage(Stage::Encoding, Some(total));
        let vae = folder.load_vae(&device)?;
        let mut latents = Vec::with_capacity(clips.len());
        let mut before = 0;
        for clip in clips {
            let encoded = pipelines::encode_clip(&vae, &clip.frames, &device, &mut |done, _| {
                job.progress(Stage::Encoding, before + done, total);
                job.poll()
            });
            let encoded = encoded.map_err(tensors("The clip could not be encoded"))?;
            latents.push(encoded.done().ok_or(Halt::Stopped)?);
            before += clip.frames.len();
        }
        drop(vae);
        let controls = controls.iter().map(|frames| {
            pipelines::control_from_frames(frames, &device)
                .map_err(tensors("The control clip could not be read"))
        });
        let controls = controls.collect::<Result<Vec<_>, Halt>>()?;
        let subjects = (0..record.clips()).map(|clip| record.clip(clip).0.to_owned());
        let words: Vec<String> = std::iter::once(String::new())
            .chain(subjects)
            .chain(record.prompt.clone())
            .collect();
        let mut session = Self {
            folder,
            device,
            record,
            trained_settings: None,
            trained_steps: None,
            preview: false,
            loras: Vec::new(),
            latents,
            controls,
            texts: BTreeMap::new(),
            vae: None,
        };
        session.encode_words(&words)?;
        Ok(session)
    }

    /// A session without a clip: for sampling a model as it is.
    pub(super) fn without_clip(
        folder: ModelFolder,
        device: Device,
        record: Record,
        latents_shape: &[usize; 5],
    ) -> Result<Self, Halt> {
        let latents = Tensor::zeros(latents_shape, candle_core::DType::F32, &device)
            .map_err(tensors("The sample does not fit the device"))?;
        Ok(Self {
            folder,
            device,
            record,
            trained_settings: None,
            trained_steps: None,
            preview: false,
            loras: Vec::new(),
            latents: vec![latents],
            controls: Vec::new(),
            texts: BTreeMap::new(),
            vae: None,
        })
    }

    /// The session of an existing run; the clip itself is not needed.
    pub(super) fn from_cache(
        folder: ModelFolder,
        device: Device,
        record: Record,
        run: &RunFolder,
    ) -> Result<Self, Halt> {
        let path = run.latents();
        let file = TensorFile::read(&path)?;
        let damaged = |what: &str| {
            Report::new(Area::Run, format!("{} is damaged", path.display()))
                .because(what)
                .advise("Train the clip again; a run cannot go on without its latents.")
        };
        let header: CacheHeader = serde_json::from_str(&file.about)
            .map_err(|_| damaged("It does not say what it holds."))?;
        let found = contents_sha256(&header.texts, &file.tensors);
        if header.sha256.is_some_and(|written| written != found) {
            let what = "Its contents are not what was written (the checksum differs).";
            return Err(damaged(what).into());
        }
        let read = |name: &str| -> Result<Tensor, Halt> {
            let lacks = || damaged(&format!("It has no usable {name}."));
            let plain = file.tensors.get(name).ok_or_else(lacks)?;
            tensor_from_plain(plain, &device).map_err(|_| lacks().into())
        };
        let mut texts = BTreeMap::new();
        for (index, words) in header.texts.into_iter().enumerate() {
            texts.insert(words, read(&text_name(index))?);
        }
        if folder.loras().changes_words() {
            texts.clear();
        }
        let latents = (0..record.clips()).map(|clip| read(&latents_name(clip)));
        let latents = latents.collect::<Result<Vec<_>, Halt>>()?;
        let controlled = match record.settings.method.is_controlled() {
            true => record.clips(),
            false => 0,
        };
        let controls = (0..controlled).map(|clip| read(&control_name(clip)));
        let controls = controls.collect::<Result<Vec<_>, Halt>>()?;
        Ok(Self {
            folder,
            device,
            record,
            trained_settings: None,
            trained_steps: None,
            preview: false,
            loras: Vec::new(),
            latents,
            controls,
            texts,
            vae: None,
        })
    }

    /// Writes latents and embeddings into the run, so that a resume needs neither clip nor encoders.
    pub(super) fn write_cache(&self, run: &RunFolder) -> Result<(), Halt> {
        let keep = tensors("The latents could not be read");
        let mut file = TensorFile::default();
        let mut texts = Vec::new();
        for (clip, latents) in self.latents.iter().enumerate() {
            let latents = plain_from_tensor(latents).map_err(&keep)?;
            file.tensors.insert(latents_name(clip), latents);
        }
        for (clip, control) in self.controls.iter().enumerate() {
            let control = plain_from_tensor(control).map_err(&keep)?;
            file.tensors.insert(control_name(clip), control);
        }
        for (index, (words, text)) in self.texts.iter().enumerate() {
            texts.push(words.clone());
            file.tensors
                .insert(text_name(index), plain_from_tensor(text).map_err(&keep)?);
        }
        let sha256 = contents_sha256(&texts, &file.tensors);
        let header = CacheHeader {
            texts,
            sha256: Some(sha256),
        };
        file.about = serde_json::to_string(&header).unwrap_or_default();
        file.write(&run.latents())?;
        Ok(())
    }

    /// Clean latents of a clip by its number, `[1, c, f, h, w]`; the first one's where there is no such clip.
    pub(super) fn latents(&self, clip: usize) -> &Tensor {
        self.latents.get(clip).unwrap_or(&self.latents[0])
    }

    /// What steers the ControlNet for a clip by its number; none for methods without one.
    pub(super) fn control(&self, clip: usize) -> Option<&Tensor> {
        self.controls.get(clip).or_else(|| self.controls.first())
    }

    /// What a training learns from.
    pub(super) fn items(&mut self) -> Result<Vec<Item>, Halt> {
        (0..self.record.clips())
            .map(|clip| {
                let words = self.record.clip(clip).0.to_owned();
                let text = self.text(&words)?;
                let item = Item::new(self.latents(clip), &text);
                Ok(match self.control(clip) {
                    Some(control) => item.with_control(control),
                    None => item,
                })
            })
            .collect()
    }

    /// The embedding of words, `[1, n, d]`. Words not seen before map the text encoder for a moment.
    pub(super) fn text(&mut self, words: &str) -> Result<Tensor, Halt> {
        if !self.texts.contains_key(words) {
            self.encode_words(&[words.to_owned()])?;
        }
        match self.texts.get(words) {
            Some(text) => Ok(text.clone()),
            None => Err(Report::new(Area::Run, "The words could not be encoded").into()),
        }
    }

    fn encode_words(&mut self, words: &[String]) -> Result<(), Halt> {
        let (tokenizer, encoder) = self.folder.load_text(&self.device)?;
        for words in words {
            if self.texts.contains_key(words) {
                continue;
            }
            let ids = tokenizer.encode(words)?;
            let text = nn::no_grad(|| encoder.forward(&[ids]))
                .map_err(tensors("The words could not be encoded"))?;
            self.texts.insert(words.clone(), text);
        }
        Ok(())
    }

    /// The decoder, mapped at its first use.
    pub(super) fn decoder(&mut self) -> Result<&AutoencoderKL, Halt> {
        let vae = match self.vae.take() {
            Some(vae) => vae,
            None => {
                let mut vae = self.folder.load_vae(&self.device)?;
                vae.drop_encoder();
                vae
            }
        };
        Ok(self.vae.insert(vae))
    }

    /// A short text for the header of weight files: what they belong to, without clock and paths.
    pub(super) fn about(&self) -> String {
        WeightsAbout::of(&self.record).text()
    }
}

/// The first clip's has no number, as it had before there could be several.
fn latents_name(clip: usize) -> String {
    match clip {
        0 => "latents".to_owned(),
        more => format!("latents.{}", more + 1),
    }
}

fn control_name(clip: usize) -> String {
    format!("control.{}", clip + 1)
}

fn text_name(index: usize) -> String {
    format!("text.{index}")
}

/// SHA-256 over the words, and the names, shapes and values of all tensors.
fn contents_sha256(texts: &[String], tensors: &BTreeMap<String, PlainTensor>) -> String {
    let mut bytes = format!("{texts:?}\n").into_bytes();
    for (name, tensor) in tensors {
        bytes.extend(format!("{name} {:?}\n", tensor.shape).into_bytes());
        bytes.extend(&tensor.bytes);
    }
    sha256_hex(&bytes)
}

/// SHA-256 over size and pixels of all frames.
pub(super) fn pixels_sha256(frames: &[Frame]) -> String {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend(frame.width.to_le_bytes());
        bytes.extend(frame.height.to_le_bytes());
        bytes.extend(&frame.rgb);
    }
    sha256_hex(&bytes)
}
