//! Collecting frames within the limits.

use super::{Clip, Frame, Limits};

/// Frames kept so far, within the limits.
pub(super) struct Keep<'a> {
    limits: &'a Limits,
    bytes: u64,
    pub(super) frames: Vec<Frame>,
    pub(super) times_secs: Vec<f64>,
    pub(super) notes: Vec<String>,
}

impl<'a> Keep<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            bytes: 0,
            frames: Vec::new(),
            times_secs: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Size of the first frame.
    pub(super) fn size(&self) -> Option<(u32, u32)> {
        self.frames.first().map(|f| (f.width, f.height))
    }

    /// Keeps a frame; `false`, with a note, if a limit is reached and reading should stop.
    ///
    /// The first frame is always kept, so that no limit turns a readable file into an empty clip.
    pub(super) fn push(&mut self, frame: Frame, time_secs: f64) -> bool {
        let bytes = self.bytes + frame.rgb.len() as u64;
        let stop = if self.frames.is_empty() {
            None
        } else if self.frames.len() >= self.limits.max_frames {
            Some(format!("{} frames", self.limits.max_frames))
        } else if bytes > self.limits.max_bytes {
            Some(format!("{} MiB of frames", self.limits.max_bytes >> 20))
        } else if time_secs > self.limits.start_secs + self.limits.max_duration_secs {
            Some(format!("{} s", self.limits.max_duration_secs))
        } else {
            None
        };
        if let Some(limit) = stop {
            self.notes.push(format!(
                "Read the first {} frames only: the limit is {limit}.",
                self.frames.len()
            ));
            return false;
        }
        self.bytes = bytes;
        self.frames.push(frame);
        self.times_secs.push(time_secs);
        true
    }

    pub(super) fn into_clip(self, fps: f64, source_name: String) -> Clip {
        Clip {
            frames: self.frames,
            times_secs: self.times_secs,
            fps,
            source_name,
            notes: self.notes,
        }
    }
}
