//! Which model the window works with: a built-in one, or one in a folder.

use std::path::PathBuf;

use super::app::{App, Document};
use super::media::{self, ModelChoice, ModelInfo};
use super::panels::transfer::{with_method, with_model};
use super::task::Task;
use crate::methods::Method;

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

    /// Chooses a model; none is the built-in one. The built-in image model and Stable Diffusion do not learn by the same
    /// numbers.
    pub(super) fn choose_model(&mut self, model: Option<PathBuf>) {
        let (old, new) = (self.document.model.is_none(), model.is_none());
        if self.document.model != model {
            self.document.control.controlnet = None;
        }
        self.document.model = model;
        if old != new {
            let settings = &mut self.document.settings;
            *settings = with_model(settings, new);
        }
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
                let builtin = self.document.model.is_none();
                let settings = &mut self.document.settings;
                // A model of another kind brings the method that it can be used for.
                if !info.allows(settings.method)
                    && let Some(method) =
                        Method::ALL.into_iter().find(|method| info.allows(*method))
                {
                    *settings = with_method(settings, method, builtin);
                    let text = format!("{} is trained by {}.", info.name, method.name());
                    self.notices.say(text, None);
                }
                self.model = Some(info);
                self.model_generation += 1;
            }
            Err(report) => {
                self.notices.problem(report, None);
                if let ModelChoice::Folder(_, Some(_)) = choice {
                    self.document.control.controlnet = None;
                    self.shelf.unfit = Some(choice);
                } else if self.model.is_some() && self.document.model.is_some() {
                    // The model that was there before still works.
                    self.choose_model(None);
                }
            }
        }
    }
}
