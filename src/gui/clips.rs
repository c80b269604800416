//! Several clips of one motion: how they come to the first one, and how they go.

use std::path::{Path, PathBuf};

use super::app::App;
use super::media;
use super::notices::Action;
use super::task::Task;
use crate::project::MoreClip;
use crate::report::Report;

/// The clips that another one took the place of, so that they can be learned together with it instead.
#[derive(Clone, Debug, PartialEq)]
pub struct Replaced {
    clip: PathBuf,
    more: Vec<MoreClip>,
    inverted_clip: usize,
    start_secs: f64,
    fps: Option<f64>,
}

/// Clips that are looked at before they join the list.
#[derive(Default)]
pub struct Adding(Vec<Task<Result<PathBuf, Report>>>);

impl App {
    /// Adds a clip of the same motion once it is known to be one.
    pub(super) fn add_clip(&mut self, path: &Path) {
        let path = path.to_owned();
        let task = self.start("add clip", move |_| media::look_at_clip(&path));
        self.adding.0.extend(task);
    }

    /// Takes the clips that were looked at.
    pub(super) fn take_added(&mut self) {
        let mut waiting = Vec::new();
        for task in std::mem::take(&mut self.adding.0) {
            match task.take() {
                Some(Ok(path)) => self.join_clip(path),
                Some(Err(report)) => self.notices.problem(report, None),
                None => waiting.push(task),
            }
        }
        self.adding.0.extend(waiting);
    }

    fn join_clip(&mut self, path: PathBuf) {
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let document = &mut self.document;
        let known = document
            .clip
            .iter()
            .chain(document.more_clips.iter().map(|clip| &clip.path));
        if known.into_iter().any(|known| *known == path) {
            self.notices
                .say(format!("{name} is in the list already."), None);
            return;
        }
        document.more_clips.push(MoreClip {
            path,
            subject: document.subject.clone(),
        });
        let count = 1 + document.more_clips.len();
        self.notices.say(
            format!("{name} is learned too: {count} clips of one motion."),
            None,
        );
    }

    /// Takes a clip out of the list.
    pub(super) fn remove_clip(&mut self, index: usize) {
        let document = &mut self.document;
        if index >= document.more_clips.len() {
            return;
        }
        document.more_clips.remove(index);
        // Counted from 1, the first clip included.
        let chosen = &mut document.settings.inverted_clip;
        match (*chosen).cmp(&(index + 2)) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => *chosen = 1,
            std::cmp::Ordering::Greater => *chosen -= 1,
        }
    }

    /// Another clip takes the place of all clips there are; they are offered back, to be learned together with it.
    pub(super) fn replace_clips(&mut self, path: &Path) {
        let document = &mut self.document;
        let settings = &mut document.settings;
        let replaced = document.clip.replace(path.to_owned()).map(|clip| Replaced {
            clip,
            more: std::mem::take(&mut document.more_clips),
            inverted_clip: std::mem::replace(&mut settings.inverted_clip, 1),
            start_secs: settings.start_secs,
            fps: settings.fps,
        });
        // The cut of another clip means nothing here.
        (settings.start_secs, settings.fps) = (0.0, None);
        let Some(replaced) = replaced else { return };
        let is_bundled = |path: &Path| path.file_name().is_some_and(|n| n == media::BUNDLED_NAME);
        if is_bundled(&replaced.clip) || is_bundled(path) {
            return;
        }
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().into_owned()
        };
        let text = format!(
            "{} takes the place of {}.",
            name(path),
            name(&replaced.clip)
        );
        let replaced = Box::new(replaced);
        let leads = self.document.settings.method.is_controlled();
        let actions = std::iter::once(Action::LearnBoth(replaced.clone()))
            .chain(leads.then_some(Action::LeadBy(replaced)));
        self.notices.say(text, actions);
    }

    /// Puts the clips back that another one took the place of, which leads ControlVideo from now on.
    pub(super) fn lead_by_opened(&mut self, replaced: Replaced) {
        let document = &mut self.document;
        let Some(opened) = document.clip.replace(replaced.clip.clone()) else {
            return;
        };
        document.more_clips = replaced.more;
        let settings = &mut document.settings;
        settings.inverted_clip = replaced.inverted_clip;
        (settings.start_secs, settings.fps) = (replaced.start_secs, replaced.fps);
        self.lead_by(opened, false);
        self.open_path(&replaced.clip);
    }

    /// Puts the clips back that another one took the place of, and that one behind them.
    pub(super) fn learn_both(&mut self, replaced: Replaced) {
        let document = &mut self.document;
        let Some(added) = document.clip.replace(replaced.clip) else {
            return;
        };
        let settings = &mut document.settings;
        settings.inverted_clip = replaced.inverted_clip;
        (settings.start_secs, settings.fps) = (replaced.start_secs, replaced.fps);
        let later = std::mem::replace(&mut document.more_clips, replaced.more);
        let subject = document.subject.clone();
        let joined = std::iter::once(MoreClip {
            path: added,
            subject,
        });
        document.more_clips.extend(joined.chain(later));
        let kept = document.clip.clone();
        let is_first = |clip: &MoreClip| Some(&clip.path) == kept.as_ref();
        document.more_clips.retain(|clip| !is_first(clip));
        if let Some(first) = kept {
            self.open_path(&first);
        }
    }

    /// Settings of a run or a film may name a clip that is not here.
    pub(super) fn settle_inverted_clip(&mut self) {
        let clips = 1 + self.document.more_clips.len();
        let settings = &mut self.document.settings;
        if settings.check_for_clips(clips).is_err() {
            settings.inverted_clip = 1;
        }
    }
}
