//! A file of trained weights, ours or another program's LoRA, that somebody drops: what it is, and a sample with it.

use std::path::{Path, PathBuf};

use eframe::egui;

use super::app::App;
use super::dialogs::{Dialog, accent_button};
use super::notices::Action;
use super::queue::RESULT;
use super::task::Task;
use crate::job::{
    BUILTIN, DeviceChoice, LoraExport, LoraNames, LoraRequest, LoraShare, LoraWritten, Request,
    ResultRequest, SampleRequest, SamplingChanges, WeightsAbout, export_lora,
};
use crate::report::Report;

/// Strengths that can be set; 1 is what the weights were trained for.
const STRENGTHS: std::ops::RangeInclusive<f64> = 0.0..=2.0;

/// A run's motion on its way into a file for other programs.
pub(super) struct SavingLora {
    to: PathBuf,
    task: Task<Result<LoraWritten, Report>>,
}

impl App {
    /// Says what a file of trained weights is, and offers a sample with it.
    pub(super) fn offer_weights(&mut self, path: PathBuf, about: Option<&WeightsAbout>) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = match about {
            Some(about) => format!("{name} holds the motion of \"{}\".", about.subject),
            None => format!("{name} holds weights; it does not say where they are from."),
        };
        let whole = about.is_some_and(|about| about.rank.is_none());
        let action = Action::SampleWith { file: path, whole };
        self.notices.say(text, Some(action));
    }

    /// Writes the motion's adapters of a run as a LoRA, into its folder.
    pub(super) fn save_lora(&mut self, run: &Path) {
        if self.saving_lora.is_some() {
            return;
        }
        let to = run.join("final").join("lora.safetensors");
        let export = LoraExport {
            source: run.to_owned(),
            to: to.clone(),
            names: LoraNames::Diffusers,
            share: LoraShare::Motion,
            clip: 1,
            overwrite: true,
        };
        let task = self.start("LoRA file", move |_| export_lora(&export));
        self.saving_lora = task.map(|task| SavingLora { to, task });
    }

    /// Says where the LoRA is.
    pub(super) fn tick_lora(&mut self) {
        let written = self.saving_lora.as_ref().and_then(|s| s.task.take());
        let Some(written) = written else { return };
        let Some(SavingLora { to, .. }) = self.saving_lora.take() else {
            return;
        };
        match written {
            Ok(written) => {
                let text = format!(
                    "The motion is in lora.safetensors now, in the run's folder: {} layers of rank {}, named as diffusers names them.",
                    written.motion_layers, written.rank
                );
                self.notices.say(text, Some(Action::ShowFile(to)));
            }
            Err(report) => {
                self.notices.problem(report, None);
                self.stay_open();
            }
        }
    }

    /// The dialog: how strongly they act, and what is painted. Gives whether it stays open.
    pub(super) fn weights_ui(
        &mut self,
        ui: &mut egui::Ui,
        file: &Path,
        (strength, whole): (&mut f64, bool),
    ) -> bool {
        ui.heading("Sample with it");
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        ui.label(format!(
            "{name} is put on the chosen model, without a training."
        ));
        ui.add_space(4.0);
        ui.horizontal(|ui| {
            let label = ui.label("Strength");
            let slider = egui::Slider::new(strength, STRENGTHS).fixed_decimals(2);
            let slider = ui.add_enabled(!whole, slider).labelled_by(label.id);
            let tip =
                "1 is what the weights were trained for; less of it moves less, 0 leaves it out.";
            slider.on_hover_text(tip).on_disabled_hover_text(
                "These take the place of the model's own weights, whole: they have no strength.",
            );
        });
        ui.add_space(4.0);
        let label = ui.label("New subject");
        let words =
            egui::TextEdit::singleline(&mut self.document.prompt).desired_width(f32::INFINITY);
        ui.add(words).labelled_by(label.id);
        ui.add_space(8.0);
        let mut go = false;
        ui.horizontal(|ui| {
            let can = !self.document.prompt.trim().is_empty();
            go = accent_button(ui, "Sample", can).clicked();
            if ui.button("Cancel").clicked() {
                ui.close();
            }
        });
        if go {
            self.sample_with(file.to_owned(), *strength);
        }
        !go
    }

    /// Samples the new subject with a file of trained weights on the chosen model, without a clip.
    fn sample_with(&mut self, file: PathBuf, strength: f64) {
        let prompt = self.document.prompt.trim().to_owned();
        let settings = &self.document.settings;
        let request = SampleRequest {
            source: match &self.document.model {
                Some(folder) => folder.clone(),
                None => PathBuf::from(BUILTIN),
            },
            loras: vec![LoraRequest { file, strength }],
            result: ResultRequest {
                prompt: prompt.clone(),
                output: Some(self.data.join("samples").join(RESULT)),
                overwrite: false,
                scale_to: None,
            },
            changes: SamplingChanges {
                seed: Some(settings.seed),
                sampling_steps: settings.sampling_steps,
                sampler: Some(settings.sampler),
                guidance: settings.guidance,
                negative_prompt: Some(settings.negative_prompt.clone()),
                ..SamplingChanges::default()
            },
            device: DeviceChoice::Auto,
        };
        self.enqueue(prompt, Request::Sample(Box::new(request)));
    }
}

impl Dialog {
    /// The dialog about a file of trained weights.
    #[must_use]
    pub fn weights(file: PathBuf, whole: bool) -> Self {
        Self::Weights {
            file,
            strength: 1.0,
            whole,
        }
    }
}
