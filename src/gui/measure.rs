//! How smooth the window is while the built-in model trains: `./x bench ui` opens it with this stopwatch, which trains, takes
//! the time of every frame, prints the figures and closes the window.

use std::time::{Duration, Instant};

use eframe::egui;

use super::app::App;
use super::command::Command;

/// Frames drawn before this are not counted: pipelines and caches are made then.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long frames are counted.
const COUNTED: Duration = Duration::from_secs(20);

/// Takes the time of frames.
#[derive(Debug)]
pub struct Stopwatch {
    begun: Instant,
    ready: Option<Duration>,
    training_since: Option<Instant>,
    /// When the frame began whose end the next frame shows.
    timed: Option<Instant>,
    frames_ms: Vec<f64>,
    /// Steps done when the counting began, and lately.
    steps: Option<(u32, u32)>,
}

impl Stopwatch {
    /// A stopwatch that was started when the program was asked for its window.
    #[must_use]
    pub fn new(begun: Instant) -> Self {
        Self {
            begun,
            ready: None,
            training_since: None,
            timed: None,
            frames_ms: Vec::new(),
            steps: None,
        }
    }

    /// The figures as one JSON object.
    fn figures(&mut self) -> String {
        self.frames_ms.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = self.frames_ms.len().saturating_sub(1);
            let index = (share * last as f64).round().max(0.0) as usize;
            self.frames_ms.get(index).copied().unwrap_or(f64::NAN)
        };
        let steps = self.steps.map_or(0, |(first, last)| last - first);
        serde_json::json!({
            "start_to_interactive_secs": self.ready.map(|ready| ready.as_secs_f64()),
            "frames": self.frames_ms.len(),
            "steps_per_sec": f64::from(steps) / COUNTED.as_secs_f64(),
            "frame_ms": { "half": at(0.5), "p95": at(0.95), "p99": at(0.99), "most": at(1.0) },
        })
        .to_string()
    }
}

impl App {
    /// Called once a frame. Every other frame is asked for at once, so that it begins when the one before is drawn and shown:
    /// the time between the two is what a frame keeps the window from answering, the driver's part included (where the
    /// processor draws, that is most of it, and eframe's own figure leaves it out).
    pub(super) fn measure(&mut self, ctx: &egui::Context) {
        let Some(mut watch) = self.stopwatch.take() else {
            return;
        };
        if watch.ready.is_none() && self.is_ready() {
            watch.ready = Some(watch.begun.elapsed());
            self.document.settings.steps = 100_000;
            self.obey(Command::Train);
        }
        let step = self.queue.current().map_or(0, super::run::Run::step);
        if watch.training_since.is_none() && step > 0 {
            watch.training_since = Some(Instant::now());
        }
        let training = watch.training_since.map(|since| since.elapsed());
        let counts = training.is_some_and(|training| training > WARM_UP);
        if counts {
            watch.steps.get_or_insert((step, step)).1 = step;
        }
        match watch.timed.take() {
            Some(begun) if counts => watch.frames_ms.push(begun.elapsed().as_secs_f64() * 1000.0),
            Some(_) => {}
            None => {
                watch.timed = Some(Instant::now());
                ctx.request_repaint();
            }
        }
        if training.is_some_and(|training| training > WARM_UP + COUNTED) {
            println!("{}", watch.figures());
            self.closing = true;
            self.queue.send(crate::job::Command::Stop);
            return;
        }
        ctx.request_repaint_after_secs(0.1);
        self.stopwatch = Some(watch);
    }
}
