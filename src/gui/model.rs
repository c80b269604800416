//! Which model the window works with: a built-in one, or one in a folder.

use std::path::PathBuf;

use super::app::{App, Document};
use super::media::{self, ModelChoice, ModelInfo};
use super::panels::transfer::{with_method, with_model};
use super::task::Task;
use crate::methods::Method;
use crate::train::TransferConfig;

/// What a chosen model took the place of, to go back to where it cannot be read.
pub struct Before {
    /// The folder that was chosen.
    chosen: Option<PathBuf>,
    model: Option<PathBuf>,
    controlnet: Option<PathBuf>,
    settings: TransferConfig,
}

impl App {
    /// The model that the document asks for. Without a folder the method says which built-in one it is.
    pub(super) fn model_choice(&self) -> ModelChoice {
        let Document {
            model,
            control,
            settings,
            ..
        } = &self.document;
        match model {
            None => ModelChoice::Builtin(settings.method.model_kind()),
            Some(folder) => {
                let controlnet = control.controlnet.clone();
                let controlnet = controlnet.filter(|_| settings.method.is_controlled());
                ModelChoice::Folder(folder.clone(), controlnet)
            }
        }
    }

    /// What was read of the model that the document asks for; none while that is still being read, though the one before may
    /// be there.
    pub(super) fn current_model(&self) -> Option<&ModelInfo> {
        let choice = self.model_choice();
        self.model.as_ref().filter(|model| model.choice == choice)
    }

    /// What to call the model that the document asks for: by its own name once it is read, else by its folder's.
    pub(super) fn model_title(&self) -> String {
        match (self.current_model(), &self.document.model) {
            (Some(model), _) => model.name.clone(),
            (None, Some(folder)) if self.reading_model.is_none() => {
                let name = folder.file_name().unwrap_or(folder.as_os_str());
                name.to_string_lossy().into_owned()
            }
            _ => "reading…".to_owned(),
        }
    }

    /// Other settings take the place of all that there are: a method's, a preset's, those of a run or a film.
    pub(super) fn replace_settings(&mut self, settings: TransferConfig) {
        self.document.settings = settings;
        self.queue.rebase_live(&self.document.settings.live());
    }

    /// Changes the document as a consequence of what somebody did or opened. That is neither a step that undo takes back by
    /// itself, after which it would only be made again, nor a change that a project file lacks.
    pub(super) fn follow(&mut self, change: impl FnOnce(&mut Document)) {
        let is_saved = self.document == self.saved;
        self.history.follow(&mut self.document, change);
        if is_saved {
            self.saved.clone_from(&self.document);
        }
    }

    /// Chooses a model; none is the built-in one. The built-in image model and Stable Diffusion do not learn by the same
    /// numbers.
    pub(super) fn choose_model(&mut self, model: Option<PathBuf>) {
        let is_known = self.current_model().is_some();
        if self.document.model == model {
            if !is_known && self.reading_model.is_none() {
                // What was wrong with it may be mended.
                self.model_asked = None;
            }
            return;
        }
        let document = &self.document;
        match &mut self.model_before {
            // Of several that are chosen before one of them was read, all took the place of the one before them.
            Some(before) if !is_known => before.chosen.clone_from(&model),
            before => {
                *before = is_known.then(|| {
                    Box::new(Before {
                        chosen: model.clone(),
                        model: document.model.clone(),
                        controlnet: document.control.controlnet.clone(),
                        settings: document.settings.clone(),
                    })
                });
            }
        }
        let (old, new) = (document.model.is_none(), model.is_none());
        self.document.control.controlnet = None;
        self.document.model = model;
        if old != new {
            self.replace_settings(with_model(&self.document.settings, new));
        }
    }

    /// A model brings a method that it can be used for where the document's is for models of another kind. Looked at whenever
    /// both are known: an undo, a run or a project may bring the one without the other.
    pub(super) fn fit_method(&mut self) {
        let now = self.document.settings.method;
        let Some(model) = self.current_model().filter(|model| !model.allows(now)) else {
            return;
        };
        let fitting = Method::ALL.into_iter().find(|method| model.allows(*method));
        let Some(method) = fitting else { return };
        let text = format!("{} is trained by {}.", model.name, method.name());
        self.notices.say(text, None);
        self.follow(|document| {
            let builtin = document.model.is_none();
            document.settings = with_method(&document.settings, method, builtin);
        });
        self.queue.rebase_live(&self.document.settings.live());
    }

    pub(super) fn read_model(&mut self) {
        let choice = self.model_choice();
        self.model_asked = Some(choice.clone());
        self.reading_model = self.start("model", move |_| media::model(&choice));
    }

    pub(super) fn take_model(&mut self) {
        let Some(read) = self.reading_model.as_ref().and_then(Task::take) else {
            return;
        };
        self.reading_model = None;
        let choice = self.model_choice();
        if self.model_asked.as_ref() != Some(&choice) {
            // Another one was chosen meanwhile.
            return;
        }
        match read {
            Ok(info) => {
                self.model = Some(info);
                self.model_generation += 1;
                self.model_before = None;
            }
            Err(report) => {
                self.notices.problem(report, None);
                self.step_back(choice);
            }
        }
    }

    /// A model cannot be read: the one, or the ControlNet, that it took the place of still works. A project, a run or an undo
    /// that asks for it is left as it is: nobody chose another model in its place.
    fn step_back(&mut self, choice: ModelChoice) {
        let known = self.model.as_ref().map(|model| model.choice.clone());
        if let ModelChoice::Folder(folder, Some(_)) = &choice {
            // The model itself was read: it is the ControlNet that was chosen since.
            if let Some(ModelChoice::Folder(known, before)) = &known
                && known == folder
            {
                let before = before.clone();
                self.follow(|document| document.control.controlnet = before);
            }
            self.shelf.unfit = Some(choice);
        } else if let Some(before) = self.model_before.take()
            && before.chosen == self.document.model
        {
            self.follow(|document| {
                let builtin = before.chosen.is_none();
                // Numbers that came with the choice go with it; what was changed since stays.
                let came = builtin != before.model.is_none()
                    && document.settings == with_model(&before.settings, builtin);
                if came {
                    document.settings = before.settings;
                }
                document.control.controlnet = before.controlnet;
                document.model = before.model;
            });
            self.queue.rebase_live(&self.document.settings.live());
        }
        if known.as_ref() == Some(&self.model_choice()) {
            // It was read once.
            self.model_asked = known;
        }
    }
}
