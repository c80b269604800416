//! How well a result follows its reference and its words, in numbers whose definitions stand beside them.
//!
//! [`score()`] makes one [`Scorecard`] from two films of one length and size and what is known of them; [`lines`] says it
//! in words. Plain pictures in, plain numbers out: no model, no tensors, no thread. [`DrawnClip`] is a clip whose true
//! motion is known; [`Summary`] is the table over many of them. What trains and samples lives in `job`.
//!
//! # The shape classifier
//! [`recognise`] finds the drawn shapes by their overlap with rendered templates. Measured by `tests/evaluate/shapes.rs` on
//! 240 shapes a row, of any rotation and place, drawn at 64×64 pixels:
//!
//! | radius in pixels | no noise | noise of deviation 0.05 on every channel |
//! | --- | --- | --- |
//! | 6.5 to 8 | 100 % | 100 % |
//! | 8 to 12 | 100 % | 100 % |
//! | 12 to 24 | 100 % | 100 % |
//!
//! Smaller subjects (below 2 % of the frame) and noisier grounds (deviation 0.1) are not looked at: nothing is said of
//! them. It knows plain shapes in front of a plain ground and nothing else.

mod dice;
pub mod drawn;
mod fidelity;
mod interval;
mod look;
mod scene;
mod score;
mod shape;
mod spectrum;
mod table;
mod words;

pub use dice::Dice;
pub use drawn::DrawnClip;
pub use fidelity::motion_fidelity;
pub use interval::{Interval, student_t};
pub use look::{Look, Subject, look, majority, subject_track};
pub use scene::{Colour, Scene, Shape};
pub use score::{Agreement, Known, Leakage, ScoreError, Scorecard, at_one_size, score};
pub use shape::{Recognised, recognise};
pub use spectrum::{SpectrumPart, SpectrumScore, spectrum_score};
pub use table::{Cell, CellResult, METRICS, Metric, Row, Summary, Training, csv};
pub use words::{Line, lines};
