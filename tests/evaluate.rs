//! Scorecards against films whose truth is known, the shape classifier's accuracy, the suite and the command.

mod command;
mod metrics;
mod shapes;
mod suite;

use spectral_motion::evaluate::drawn::{Pose, draw};
use spectral_motion::evaluate::{DrawnClip, Scene};
use spectral_motion::video::Frame;

/// A scene whose subject moves along a path given in units.
fn film(scene: Scene, path: &[(f64, f64)], size: (u32, u32)) -> Vec<Frame> {
    let (shape, colour, ground) = (
        scene.shape.unwrap(),
        scene.colour.unwrap(),
        scene.ground.unwrap(),
    );
    let pose = |centre: &(f64, f64)| Pose {
        centre: *centre,
        radius: 10.5,
        turn: 0.05,
    };
    path.iter()
        .map(|centre| draw((shape, colour), ground, pose(centre), size))
        .collect()
}

/// A drawn clip of eight frames.
fn clip() -> DrawnClip {
    DrawnClip::new(5, 8)
}
