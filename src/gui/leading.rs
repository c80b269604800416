//! What leads ControlVideo: the clip's edges, or a clip of the person's own, as the ControlNet will see it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::app::{App, CutKey};
use super::media;
use super::task::Task;
use crate::job::depth_of_frames;
use crate::models::DepthAnything;
use crate::report::{Area, Report};
use crate::video::{Frame, canny};

/// What the shown pictures were made from.
#[derive(Clone, Debug, PartialEq)]
struct Key {
    cut: CutKey,
    thresholds: (f32, f32),
    clip: Option<PathBuf>,
}

/// What leads.
struct Pictures {
    frames: Arc<[Frame]>,
    /// Whether a model estimated them, whose folder was named in the place of a clip.
    is_depth: bool,
}

type Made = Result<Pictures, Report>;

/// The pictures that lead, made on a thread whenever what they depend on changes.
#[derive(Default)]
pub struct Leading {
    made: Option<(Key, Made)>,
    making: Option<(Key, Task<Made>)>,
}

impl Leading {
    /// A picture for each frame of the cut; none while they are made, and for methods that nothing leads.
    #[must_use]
    pub fn frames(&self) -> Option<&Arc<[Frame]>> {
        let (_, made) = self.made.as_ref()?;
        made.as_ref().ok().map(|pictures| &pictures.frames)
    }

    /// Why there are no pictures of what is wanted, once somebody tried.
    fn problem(&self, wanted: &Key) -> Option<&Report> {
        let (key, made) = self.made.as_ref()?;
        made.as_ref().err().filter(|_| key == wanted)
    }

    /// Whether a clip is the folder of a model that estimates depth, once it has led.
    fn is_depth(&self, clip: &Path) -> Option<bool> {
        let (key, made) = self.made.as_ref()?;
        let pictures = made.as_ref().ok()?;
        (key.clip.as_deref() == Some(clip)).then_some(pictures.is_depth)
    }
}

impl App {
    /// Takes the pictures that were made, and asks for others where they are of something else.
    pub(super) fn tick_leading(&mut self) {
        let done = self
            .leading
            .making
            .as_ref()
            .and_then(|(_, task)| task.take());
        if let Some(made) = done
            && let Some((key, _)) = self.leading.making.take()
        {
            // While the cut is dragged the same is wrong again and again.
            let before = self.leading.made.as_ref();
            let told = before.and_then(|(_, made)| made.as_ref().err());
            if let Err(report) = &made
                && told != Some(report)
            {
                self.notices.problem(report.clone(), None);
            }
            self.leading.made = Some((key, made));
        }
        let wanted = self.wanted_leading();
        let Some(wanted) = wanted else {
            if !self.document.settings.method.is_controlled() {
                self.leading = Leading::default();
            }
            return;
        };
        let is_of_it = |key: Option<&Key>| key == Some(&wanted);
        if is_of_it(self.leading.made.as_ref().map(|(key, _)| key))
            || is_of_it(self.leading.making.as_ref().map(|(key, _)| key))
        {
            return;
        }
        let (Some(cut), Some(model)) = (&self.cut, &self.model) else {
            return;
        };
        let (frames, limits) = (Arc::clone(&cut.frames), model.limits);
        let (settings, (low, high)) = (self.document.settings.clone(), wanted.thresholds);
        let clip = wanted.clip.clone();
        let task = self.start("leading pictures", move |stop| {
            let Some(path) = clip else {
                let edges = frames.iter().map(|frame| canny(frame, low, high));
                return Ok(Pictures {
                    frames: edges.collect(),
                    is_depth: false,
                });
            };
            let is_depth = DepthAnything::is_folder(&path);
            let frames = if is_depth {
                let stopped = || stop.load(Ordering::Relaxed);
                let made = depth_of_frames(&path, &frames, &stopped)?;
                made.unwrap_or_default().into()
            } else {
                let loaded = media::load(&path, stop)?;
                media::cut(&loaded.clip, &settings, &limits)?.frames
            };
            Ok(Pictures { frames, is_depth })
        });
        self.leading.making = task.map(|task| (wanted, task));
    }

    fn wanted_leading(&self) -> Option<Key> {
        let settings = &self.document.settings;
        let is_cut = self.cut.is_some() && self.cutting.is_none();
        if !settings.method.is_controlled() || !is_cut {
            return None;
        }
        let clip = self.document.control.clip.clone();
        Some(Key {
            cut: self.cut_key.clone()?,
            // A clip of one's own has no thresholds to wait for.
            thresholds: match clip {
                None => settings.canny,
                Some(_) => (0.0, 0.0),
            },
            clip,
        })
    }

    /// Whether the pictures, or why there are none, are those of what leads now.
    pub(super) fn is_leading_current(&self) -> bool {
        let made = self.leading.made.as_ref();
        self.wanted_leading()
            .is_none_or(|wanted| made.is_some_and(|(key, _)| *key == wanted))
    }

    /// A clip of the person's own leads from now on, or what a model estimates of the clip that is open. Of a folder that was
    /// only picked nobody knows yet which of them it is.
    pub(super) fn lead_by(&mut self, path: PathBuf, is_depth: bool) {
        let path = std::path::absolute(&path).unwrap_or(path);
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy();
        let text = match is_depth {
            true => format!("The depth that {name} estimates leads ControlVideo now."),
            false => format!("{name} leads ControlVideo now."),
        };
        self.notices.say(text, None);
        self.document.control.clip = Some(path);
    }

    /// Why ControlVideo cannot begin.
    pub(super) fn check_control(&self) -> Result<(), Report> {
        if !self.document.settings.method.is_controlled() {
            return Ok(());
        }
        let refused =
            |headline: &str, advice: &str| Err(Report::new(Area::Request, headline).advise(advice));
        // Of a model that is still being read the job itself finds out.
        if self
            .current_model()
            .is_some_and(|model| !model.has_controlnet)
        {
            return refused(
                "ControlVideo needs a ControlNet, and there is none in the model's folder",
                "Choose the folder of one for Stable Diffusion 1.x (edges, depth or poses) under ControlNet.",
            );
        }
        let own = self.document.control.clip.as_deref();
        let is_clip = own.is_some_and(|path| self.leading.is_depth(path) == Some(false));
        if is_clip && !self.document.more_clips.is_empty() {
            return refused(
                "One control clip cannot lead several clips",
                "Let the edges of each clip lead (under Led by), or train on one clip.",
            );
        }
        let wanted = self.wanted_leading();
        wanted
            .and_then(|wanted| self.leading.problem(&wanted))
            .map_or(Ok(()), |problem| Err(problem.clone()))
    }
}
