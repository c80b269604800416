//! What happens between two frames: results of background work are taken, commands are obeyed, changes are noted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use eframe::egui;

use super::app::{App, Document, theme_of};
use super::command::{self, Command};
use super::dialogs::{Dialog, Pick};
use super::media::{self, Opened};
use super::notices::Action;
use super::player::frame_at;
use super::task::{MayFail, Task};
use super::{layout, panels};
use crate::job::{self, Until};
use crate::project::Recipe;
use crate::report::{Area, Report};
use crate::train::TransferConfig;

/// Scales of the interface.
const SCALES: std::ops::RangeInclusive<f32> = 0.6..=2.4;
/// Between two of them.
const SCALE_STEP: f32 = 0.1;

impl App {
    /// Takes results, moves the playhead. Draws nothing.
    pub(super) fn tick(&mut self, ctx: &egui::Context) {
        let now = self.now_secs();
        self.notices.tick(now);
        self.memory.tick(now);
        self.take_opened();
        self.take_added();
        self.take_model();
        self.take_cut();
        self.tick_leading();
        self.take_picked();
        self.tick_runs(ctx, now);
        self.tick_export();
        self.tick_lora();
        self.tick_library();
        self.lead_model();
        self.tick_naming();
        self.tick_latents();
        self.tick_score();
        self.tick_autosave(ctx);
        self.tick_next_project();
        self.tick_close(ctx);
        self.tick_device();
        let passed = (now - self.ticked_at).clamp(0.0, 0.5);
        self.ticked_at = now;
        let (start, end) = self.cut_range();
        self.player.advance(passed, start, end);
        self.repaint_for_playback(ctx);
    }

    /// Asks for the next frame when a picture changes, not sixty times a second: on a computer without a graphics card the
    /// drawing would take the time that the training needs.
    fn repaint_for_playback(&self, ctx: &egui::Context) {
        let Some(source) = self.source.as_ref().filter(|_| self.player.playing) else {
            return;
        };
        let (start, end) = self.cut_range();
        let now = self.player.time_secs;
        let forward = self.player.speed > 0.0;
        let times = &source.clip.times_secs;
        let at = frame_at(times, now);
        let next = if forward {
            times.get(at + 1).copied().unwrap_or(end).min(end)
        } else {
            times.get(at).copied().unwrap_or(start).max(start) - 1e-3
        };
        // The result changes where the cut has its frames.
        let cut_wait = self.cut.as_ref().map_or(f64::INFINITY, |cut| {
            let place = (now - start) * cut.fps;
            let left = if forward {
                place.floor() + 1.0 - place
            } else {
                place - place.ceil() + 1.0
            };
            left.max(1e-3) / cut.fps
        });
        let wait = (next - now).abs().min(cut_wait) / self.player.speed.abs().max(0.1);
        let shares = self.drawn_by_processor && self.queue.is_going();
        ctx.request_repaint_after_secs(redraw_secs(wait, shares));
    }

    /// Keys, dropped files and pasted paths.
    pub(super) fn input_ui(&mut self, ctx: &egui::Context) {
        if ctx.input(|input| input.pointer.any_pressed()) {
            self.by_keyboard = false;
        } else if ctx.input(|input| input.key_pressed(egui::Key::Tab)) {
            self.by_keyboard = true;
        }
        if self.dialog.is_some() && ctx.input(|input| input.key_pressed(egui::Key::Escape)) {
            self.dialog = None;
        }
        if self.dialog.is_none() {
            for command in command::typed(ctx) {
                self.obey(command);
            }
        }
        let typing = ctx.text_edit_focused();
        self.compare.flipped =
            !typing && ctx.input(|input| input.key_down(egui::Key::C) && !input.modifiers.command);
        let dropped = ctx.input(|input| input.raw.dropped_files.clone());
        let join = self.document.clip.is_some() && ctx.input(|input| input.modifiers.shift);
        if join {
            for file in &dropped {
                self.add_clip(file.path());
            }
        } else if let Some(file) = dropped.first() {
            if dropped.len() > 1 {
                self.notices.say(
                    "Several files were dropped; the first one is opened. With Shift held, films join the clip that is open.",
                    None,
                );
            }
            self.open_path(file.path());
        }
        let pasted = ctx.input(|input| {
            input.events.iter().find_map(|event| match event {
                egui::Event::Paste(text) if !typing => Some(text.trim().to_owned()),
                _ => None,
            })
        });
        if let Some(text) = pasted.filter(|text| !text.is_empty()) {
            self.open_path(&path_of(&text));
        }
    }

    /// Notes changes of the document once nothing is dragged or typed, and what follows from them.
    pub(super) fn settle(&mut self, ctx: &egui::Context) {
        let busy = ctx.input(|input| input.pointer.any_down()) || ctx.text_edit_focused();
        self.fit_method();
        if !busy {
            // Not while a number of frames is dragged: on its way back it would find its weights gone.
            self.fit_band_weights();
            self.history.settle(&self.document);
        }
        if self.model_asked.as_ref() != Some(&self.model_choice()) {
            self.read_model();
        }
        let wanted = self.wanted_cut();
        if wanted != self.cut_key && self.cutting.is_none() {
            self.cut_key = wanted;
            self.start_cut();
        }
        let live = self.document.settings.live();
        let now = self.now_secs();
        self.queue.sync_live(&live, now);
        self.settings.dark = ctx.theme() == egui::Theme::Dark;
    }

    /// Opens whatever is at a path.
    pub(super) fn open_path(&mut self, path: &Path) {
        self.opening_name = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        let path = path.to_owned();
        self.opening = self.start("open", move |stop| media::open(&path, stop));
    }

    /// Opens the clip that comes with the program.
    pub(super) fn open_bundled(&mut self) {
        media::BUNDLED_NAME.clone_into(&mut self.opening_name);
        let data = self.data.clone();
        self.opening = self.start("open", move |stop| {
            let path = media::bundled_clip(&data)?;
            media::load(&path, stop).map(|loaded| Opened::Clip(Box::new(loaded)))
        });
    }

    /// Starts background work; a refusal of the system is a problem like any other.
    pub(super) fn start<T: MayFail + Send + 'static>(
        &mut self,
        name: &str,
        work: impl FnOnce(&std::sync::atomic::AtomicBool) -> T + Send + 'static,
    ) -> Option<Task<T>> {
        match Task::start(name, &self.ctx, work) {
            Ok(task) => Some(task),
            Err(error) => {
                self.notices
                    .failed("The system gives no thread for this work", &error);
                None
            }
        }
    }

    fn take_opened(&mut self) {
        let Some(opened) = self.opening.as_ref().and_then(Task::take) else {
            return;
        };
        self.opening = None;
        match opened {
            Ok(Opened::Clip(mut loaded)) => {
                let is_sample = loaded
                    .path
                    .file_name()
                    .is_some_and(|name| name == media::BUNDLED_NAME);
                let bundled = self.first_clip && is_sample;
                self.first_clip = false;
                self.recipe = loaded.recipe.take();
                if !bundled {
                    self.remember(&loaded.path);
                }
                let had_words = !self.document.subject.is_empty();
                if is_sample || self.document.clip.is_none() {
                    self.fill_in_clip(&loaded.path, is_sample);
                }
                if self.document.clip.as_ref() != Some(&loaded.path) {
                    self.replace_clips(&loaded.path);
                    if !is_sample && self.document.subject == media::BUNDLED_WORDS {
                        // Words about another clip would teach the model something wrong.
                        self.document.subject.clear();
                    }
                }
                if had_words && self.document.subject.is_empty() {
                    self.notices.say(
                        "Say under Clip words what this clip shows: the thing and its movement.",
                        None,
                    );
                }
                self.notices.log(format!(
                    "Opened {}: {} frames.",
                    loaded.path.display(),
                    loaded.clip.frames.len()
                ));
                self.show_clip(*loaded);
                if self.recipe.is_some() {
                    self.notices.say(
                        "This film carries the recipe it was made by.",
                        Some(Action::UseRecipe),
                    );
                }
            }
            Ok(Opened::Run(past)) => {
                self.remember(&past.folder);
                self.show_past(*past);
            }
            Ok(Opened::Model(path)) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                self.notices.say(format!("The model is {name} now."), None);
                self.remember(&path);
                self.choose_model(Some(path));
            }
            Ok(Opened::Depth(path)) => self.lead_by(path, true),
            Ok(Opened::Weights(path, about)) => self.offer_weights(path, about.as_deref()),
            Ok(Opened::Project(path, project)) => self.meet_project(path, *project),
            Err(report) => self.notices.problem(report, None),
        }
    }

    fn start_cut(&mut self) {
        let (Some(source), Some(model)) = (&self.source, &self.model) else {
            return;
        };
        let clip = Arc::clone(&source.clip);
        let limits = model.limits;
        let config = self.document.settings.clone();
        self.cutting = self.start("cut", move |_| media::cut(&clip, &config, &limits));
    }

    fn take_cut(&mut self) {
        let Some(cut) = self.cutting.as_ref().and_then(Task::take) else {
            return;
        };
        self.cutting = None;
        match cut {
            Ok(cut) => {
                self.instruments
                    .set_reference(&self.ctx, Arc::clone(&cut.frames), cut.fps);
                self.cut = Some(cut);
                self.compare.renew();
                self.cut_problem = None;
            }
            Err(report) => {
                if self.cut_problem.as_ref() != Some(&report) {
                    let short = report.headline.contains("frames");
                    let action = short.then_some(Action::LoopShort);
                    self.notices.problem(report.clone(), action);
                }
                self.cut = None;
                self.cut_problem = Some(report);
            }
        }
    }

    /// Does what a toast's button says.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::ShowProblems => self.dialog = Some(Dialog::Problems),
            Action::UseRecipe => {
                if let Some(recipe) = self.recipe.take() {
                    self.use_recipe(*recipe);
                }
            }
            Action::UseRun(path) => self.use_run(&path),
            Action::Resume(path) => self.resume(path, Until::Planned),
            Action::Restore(path) => self.open_path(&path),
            Action::LoopShort => self.document.settings.loop_short = true,
            Action::ShowFile(path) => super::dialogs::show_in_files(&mut self.notices, &path),
            Action::LearnBoth(replaced) => self.learn_both(*replaced),
            Action::LeadBy(replaced) => self.lead_by_opened(*replaced),
            Action::SampleWith { file, whole } => self.dialog = Some(Dialog::weights(file, whole)),
            Action::UseModel(path) => self.choose_model(Some(path)),
        }
    }

    fn use_recipe(&mut self, recipe: Recipe<TransferConfig>) {
        if let Err(error) = recipe.settings.check() {
            let report =
                Report::new(Area::Request, "The recipe cannot be used").because(error.to_string());
            self.notices.problem(report, None);
            return;
        }
        if let Some(subject) = recipe.subject {
            self.document.subject = subject;
        }
        self.document.prompt = recipe.prompt;
        // Train shall do what was done: the settings of the training, where the film was sampled with others.
        let settings = recipe.trained_settings.unwrap_or(TransferConfig {
            seed: recipe.seed,
            ..recipe.settings
        });
        self.replace_settings(settings);
        self.settle_inverted_clip();
        self.notices.log(format!(
            "Settings of a film made with {}.",
            recipe.model_name
        ));
    }

    /// Obeys a command.
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Open => self.dialog = Some(Dialog::open()),
            Command::Save => self.save_project(false),
            Command::SaveAs => self.save_project(true),
            Command::Export => self.export_dialog(),
            Command::Models => self.models_dialog(),
            Command::Quit => self.ctx.send_viewport_cmd(egui::ViewportCommand::Close),
            Command::Undo => {
                if let Some(before) = self.history.undo(&self.document) {
                    self.go_to(before);
                }
            }
            Command::Redo => {
                if let Some(after) = self.history.redo(&self.document) {
                    self.go_to(after);
                }
            }
            Command::Train => self.train(),
            Command::Pause => self.queue.pause_or_resume(),
            Command::Stop => {
                self.queue.send(job::Command::Stop);
            }
            Command::SampleNow => self.sample_now(),
            Command::CheckpointNow => {
                self.queue.send(job::Command::CheckpointNow);
            }
            Command::CopyCommand => self.copy_command(),
            Command::Shortcuts => self.dialog = Some(Dialog::Shortcuts),
            Command::Problems => self.dialog = Some(Dialog::Problems),
            Command::Theme
            | Command::Larger
            | Command::Smaller
            | Command::NormalSize
            | Command::ResetLayout
            | Command::FullScreen => self.obey_view(command),
            _ => self.obey_play(command),
        }
    }

    fn go_to(&mut self, document: Document) {
        let now = &self.document;
        let other_clip = document.clip != now.clip;
        // A slider that goes back is for the run that goes on; a method, a model or a recipe is not.
        let live = now.settings.live();
        let is_slider = !other_clip
            && document.model == now.model
            && document.settings.clone().with_live(&live) == now.settings;
        self.document = document;
        if !is_slider {
            self.queue.rebase_live(&self.document.settings.live());
        }
        if other_clip && let Some(clip) = self.document.clip.clone() {
            self.open_path(&clip);
        }
    }

    fn obey_view(&mut self, command: Command) {
        match command {
            Command::Theme => {
                self.settings.dark = !self.settings.dark;
                self.ctx.set_theme(theme_of(&self.settings));
            }
            Command::Larger => self.scale_to(self.settings.scale + SCALE_STEP),
            Command::Smaller => self.scale_to(self.settings.scale - SCALE_STEP),
            Command::NormalSize => self.scale_to(1.0),
            Command::ResetLayout => self.tree = layout::first(self.room),
            _ => {
                let full = self
                    .ctx
                    .input(|input| input.viewport().fullscreen.unwrap_or(false));
                self.ctx
                    .send_viewport_cmd(egui::ViewportCommand::Fullscreen(!full));
            }
        }
    }

    /// Draws everything at another size; whole twentieths, so that larger and smaller lead back to where they began.
    pub(super) fn scale_to(&mut self, scale: f32) {
        let scale = ((scale * 20.0).round() / 20.0).clamp(*SCALES.start(), *SCALES.end());
        self.settings.scale = scale;
        self.ctx.set_zoom_factor(scale);
    }

    fn obey_play(&mut self, command: Command) {
        let (start, end) = self.cut_range();
        let Some(source) = &self.source else { return };
        let clip = Arc::clone(&source.clip);
        let times = &clip.times_secs;
        match command {
            Command::Backward => self.player.backward(),
            Command::Halt => self.player.stop(),
            Command::Forward => self.player.forward(),
            Command::Previous => self.player.step(times, -1),
            Command::Next => self.player.step(times, 1),
            Command::PreviousTen => self.player.step(times, -10),
            Command::NextTen => self.player.step(times, 10),
            Command::ToIn => (self.player.playing, self.player.time_secs) = (false, start),
            Command::ToOut => {
                self.player.stop();
                self.player.time_secs = times[frame_at(times, end - 1e-4)];
            }
            Command::SetIn => {
                let time = times[frame_at(times, self.player.time_secs)];
                panels::timeline::set_cut(self, Some(time), None);
            }
            Command::SetOut => {
                let time = times[frame_at(times, self.player.time_secs)];
                panels::timeline::set_cut(self, None, Some(time));
            }
            Command::Loop => self.player.looping = !self.player.looping,
            _ => self.player.toggle(),
        }
    }

    fn take_picked(&mut self) {
        let Some(picked) = self
            .picking
            .as_ref()
            .and_then(|picking| picking.task.take())
        else {
            return;
        };
        let Some(picking) = self.picking.take() else {
            return;
        };
        let path = match picked {
            Ok(Some(path)) => path,
            Ok(None) => return,
            Err(report) => {
                self.notices.problem(report, None);
                return;
            }
        };
        match picking.wants {
            Pick::Clip => {
                self.dialog = None;
                self.open_path(&path);
            }
            Pick::MoreClip => self.add_clip(&path),
            Pick::Model => self.choose_model(Some(path)),
            Pick::AddModel => self.add_model(path),
            Pick::Leading => self.lead_by(path, false),
            Pick::ControlNet => self.document.control.controlnet = Some(path),
            Pick::Project => {
                if let Some(Dialog::Save { path: typed, .. }) = &mut self.dialog {
                    *typed = path.display().to_string();
                }
            }
            Pick::Film => {
                if let Some(Dialog::Export(form)) = &mut self.dialog {
                    form.path = path.display().to_string();
                }
            }
        }
    }

    /// Takes the name of what computes, and says once where the instruments do without shaders.
    fn tick_device(&mut self) {
        if let Some(name) = self.device_asked.as_ref().and_then(Task::take) {
            self.device_asked = None;
            match name {
                Ok(name) => self.device_name = name,
                Err(report) => self.notices.problem(report, None),
            }
        }
        let note = self.instruments.note();
        if note != self.drawing_note {
            if let Some(note) = &note {
                self.notices.log(note.clone());
            }
            self.drawing_note = note;
        }
    }

    /// The bands that are heard become the bands that are trained.
    pub(super) fn train_with_mix(&mut self, weights: Vec<f64>) {
        let all = weights.iter().all(|weight| *weight == 1.0);
        self.document.settings.level_weights = if all { Vec::new() } else { weights };
        self.notices.say(
            "The global term weighs the bands as they are heard. See Band weights in the panel; undo takes it back.",
            None,
        );
    }
}

/// A path as people paste it: quoted, or as the address of a local file, which has odd letters written as `%20`.
fn path_of(text: &str) -> PathBuf {
    let text = text.lines().next().unwrap_or_default().trim();
    let text = text.trim_matches(['"', '\'']);
    let Some(address) = text.strip_prefix("file://") else {
        return PathBuf::from(text);
    };
    // The name of a computer may stand before the path.
    let path = address.find('/').map_or(address, |start| &address[start..]);
    let path = if cfg!(windows) {
        path.trim_start_matches('/')
    } else {
        path
    };
    PathBuf::from(without_percents(path))
}

/// Bytes that an address writes as `%` and two digits of base 16; what is none of that stays as it is.
fn without_percents(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| after.get(..2)).flatten();
        let code = code
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Seconds to the next drawing of a clip that plays, whose picture changes after so many. Where the processor draws beside
/// a run, a clip of many frames a second would leave the run nothing.
fn redraw_secs(wait_secs: f64, shares_processor: bool) -> f32 {
    let least = if shares_processor {
        1.0 / 8.0
    } else {
        1.0 / 60.0
    };
    wait_secs.clamp(least, 0.5) as f32 + 0.002
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_paths_are_understood_as_people_paste_them() {
        for (text, path) in [
            ("/films/my clip.mp4", "/films/my clip.mp4"),
            ("  \"/films/my clip.mp4\"\n", "/films/my clip.mp4"),
            ("'/films/a.gif'", "/films/a.gif"),
            ("file:///films/my%20clip%C3%A9.mp4", "/films/my clipé.mp4"),
            ("file://desk/films/a.gif", "/films/a.gif"),
            ("/films/100%.mp4", "/films/100%.mp4"),
            (
                "file:///films/100%.mp4\nfile:///films/b.mp4",
                "/films/100%.mp4",
            ),
        ] {
            assert_eq!(path_of(text), PathBuf::from(path), "{text}");
        }
    }

    #[test]
    fn a_clip_that_plays_leaves_a_run_the_processor() {
        let per_second = |wait: f64, shares: bool| 1.0 / redraw_secs(wait, shares);
        // A clip of 30 frames a second is drawn as often, beside a run on the same processor 8 times; 2 ms come on top.
        assert!((per_second(1.0 / 30.0, false) - 28.3).abs() < 0.1);
        assert!((per_second(1.0 / 30.0, true) - 7.87).abs() < 0.1);
        // A slow one is drawn when its picture changes in both cases, and none is let go for more than half a second.
        for shares in [false, true] {
            assert!((redraw_secs(0.25, shares) - 0.252).abs() < 1e-6);
            assert!((redraw_secs(9.0, shares) - 0.502).abs() < 1e-6);
        }
    }
}
