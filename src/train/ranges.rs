//! The ranges of all settings.

use super::config::{MOST_FPS, TransferConfig};
use super::error::TrainError;
use crate::methods::Method;
use crate::spectral::loss::{CosineAxis, max_levels};

/// Most frames of a cut: more is a slip of the keyboard.
const MOST_FRAMES: usize = 10_000;
/// The steepest gradient there is between 8-bit pixels: both slopes of a Sobel filter together.
const MOST_GRADIENT: f64 = 2040.0;

/// Accepts a number of a flag, or says what it must be.
fn range(flag: &str, value: f64, good: bool, want: &str) -> Result<(), TrainError> {
    if good && value.is_finite() {
        return Ok(());
    }
    Err(TrainError::Setting(format!(
        "{flag} is {value}, but must be {want}"
    )))
}

fn at_least_0(flag: &str, value: f64) -> Result<(), TrainError> {
    range(flag, value, value >= 0.0, "0 or more")
}

fn above_0(flag: &str, value: f64) -> Result<(), TrainError> {
    range(flag, value, value > 0.0, "above 0")
}

impl TransferConfig {
    /// Checks the settings of the spectral terms for a clip of `frames` frames.
    ///
    /// # Errors
    /// [`TrainError::Setting`] says what does not fit.
    pub fn check_for(&self, frames: usize) -> Result<(), TrainError> {
        let most = max_levels(frames).max(1);
        if let Some(levels) = self.levels.filter(|levels| *levels > most) {
            return Err(TrainError::Setting(format!(
                "--levels is {levels}, but {frames} frames have {most} wavelet levels at most"
            )));
        }
        if frames < 3 && self.method == Method::Vmc && self.cosine_axis == CosineAxis::Frame {
            return Err(TrainError::Setting(
                "VMC compares directions of motion over time, which 2 frames do not have: use 3 frames or more, or --cosine-axis pixel"
                    .to_owned(),
            ));
        }
        self.motion_loss(frames, self.delta)
            .validate()
            .map_err(|error| TrainError::Setting(error.to_string()))
    }

    /// Checks what depends on how many clips there are.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when `--inverted-clip` names none of them.
    pub fn check_for_clips(&self, clips: usize) -> Result<(), TrainError> {
        if (1..=clips).contains(&self.inverted_clip) {
            return Ok(());
        }
        let clips = match clips {
            1 => "there is one clip".to_owned(),
            more => format!("there are {more} clips, 1 to {more}"),
        };
        Err(TrainError::Setting(format!(
            "--inverted-clip is {}, but {clips}",
            self.inverted_clip
        )))
    }

    /// Checks every number against its range.
    ///
    /// # Errors
    /// [`TrainError::Setting`] names the flag, the value and the range of the first one outside.
    pub fn check(&self) -> Result<(), TrainError> {
        self.check_training()?;
        self.check_terms()?;
        self.check_method()?;
        self.check_clip()?;
        self.check_sampling()?;
        at_least_0("--checkpoint-secs", self.checkpoint_secs)?;
        let keep = self.keep_checkpoints;
        range("--keep-checkpoints", keep as f64, keep > 0, "1 or more")
    }

    fn check_training(&self) -> Result<(), TrainError> {
        above_0("--learning-rate", self.learning_rate)?;
        at_least_0("--weight-decay", self.weight_decay)?;
        at_least_0("--clip-norm", self.clip_norm)?;
        // Whole numbers of TOML files, which keep the settings, have a sign.
        let most = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
        let want = "at most 9223372036854775807";
        range("--seed", self.seed as f64, self.seed <= most, want)?;
        let (min, max) = (f64::from(self.min_timestep), f64::from(self.max_timestep));
        range("--min-timestep", min, min <= max, "at most --max-timestep")
    }

    fn check_terms(&self) -> Result<(), TrainError> {
        at_least_0("--lambda-g", self.lambda_g)?;
        at_least_0("--lambda-l", self.lambda_l)?;
        // Far above the paper's 0.05; beyond it the weights leave what a number can hold.
        let good = (0.0..=4.0).contains(&self.delta);
        range("--delta", self.delta, good, "0 to 4")?;
        self.cutoff
            .map_or(Ok(()), |cutoff| above_0("--cutoff", cutoff))?;
        let mut weights = self.level_weights.iter();
        weights.try_for_each(|weight| at_least_0("--level-weights", *weight))
    }

    fn check_method(&self) -> Result<(), TrainError> {
        let (rank, dropout) = (self.rank, self.lora_dropout);
        let good = (1..=1024).contains(&rank);
        range("--rank", rank as f64, good, "1 to 1024")?;
        let good = (0.0..1.0).contains(&dropout);
        range("--lora-dropout", dropout, good, "0 to below 1")?;
        if let Some(until) = self.dropout_until {
            let want = "1 or more; --lora-dropout 0 leaves it out";
            range("--dropout-until", f64::from(until), until > 0, want)?;
        }
        at_least_0("--lora-scale", self.lora_scale)?;
        at_least_0("--spatial-scale", self.spatial_scale)?;
        above_0("--control-scale", self.control_scale)?;
        let (low, high) = (f64::from(self.canny.0), f64::from(self.canny.1));
        let want = "above 0 and at most the second number";
        range("--canny", low, low > 0.0 && low <= high, want)?;
        range("--canny", high, high <= MOST_GRADIENT, "at most 2040")
    }

    fn check_clip(&self) -> Result<(), TrainError> {
        self.fps.map_or(Ok(()), |fps| above_0("--fps", fps))?;
        at_least_0("--start-secs", self.start_secs)?;
        match self.frames {
            Some(frames) if frames < 2 => Err(TrainError::Setting(format!(
                "--frames is {frames}, but motion needs at least 2 frames"
            ))),
            Some(frames) if frames > MOST_FRAMES => Err(TrainError::Setting(format!(
                "--frames is {frames}, but must be 2 to {MOST_FRAMES}"
            ))),
            _ => Ok(()),
        }
    }

    fn check_sampling(&self) -> Result<(), TrainError> {
        let share = self.noise_prior;
        let good = (0.0..=1.0).contains(&share);
        range("--noise-prior", share, good, "0 to 1")?;
        if let Some(steps) = self.sampling_steps {
            let good = (1..=1000).contains(&steps);
            range("--sampling-steps", steps as f64, good, "1 to 1000")?;
        }
        self.guidance
            .map_or(Ok(()), |guidance| at_least_0("--guidance", guidance))?;
        self.play_fps.map_or(Ok(()), |fps| {
            let good = (0.1..=MOST_FPS).contains(&fps);
            range("--play-fps", fps, good, "0.1 to 240")
        })
    }
}
