//! What leads ControlVideo: the clip's edges, or a clip of the person's own, as the ControlNet will see it.

use std::path::PathBuf;
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

type Made = Result<Arc<[Frame]>, Report>;

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
        self.made.as_ref()?.1.as_ref().ok()
    }

    fn problem(&self) -> Option<&Report> {
        self.made.as_ref()?.1.as_ref().err()
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
            if let Err(report) = &made {
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
        let task = self.start("leading pictures", move |stop| match clip {
            None => Ok(frames.iter().map(|frame| canny(frame, low, high)).collect()),
            Some(path) if DepthAnything::is_folder(&path) => {
                let made = depth_of_frames(&path, &frames, &|| stop.load(Ordering::Relaxed))?;
                Ok(made.unwrap_or_default().into())
            }
            Some(path) => {
                let loaded = media::load(&path, stop)?;
                media::cut(&loaded.clip, &settings, &limits).map(|cut| cut.frames)
            }
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

    /// A clip of the person's own leads from now on.
    pub(super) fn lead_by(&mut self, path: PathBuf) {
        let path = std::path::absolute(&path).unwrap_or(path);
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy();
        let text = match DepthAnything::is_folder(&path) {
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
        let is_clip = own.is_some_and(|path| !DepthAnything::is_folder(path));
        if is_clip && !self.document.more_clips.is_empty() {
            return refused(
                "One control clip cannot lead several clips",
                "Let the edges of each clip lead (under Led by), or train on one clip.",
            );
        }
        self.leading
            .problem()
            .map_or(Ok(()), |problem| Err(problem.clone()))
    }
}
