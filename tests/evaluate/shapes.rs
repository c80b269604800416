//! Accuracy of the shape classifier on rendered shapes of all sizes, rotations and places, with and without noise.

use std::f64::consts::PI;

use spectral_motion::evaluate::drawn::{Pose, draw};
use spectral_motion::evaluate::{Colour, Dice, Shape, look};
use spectral_motion::video::Frame;

/// Pictures of each shape in every test.
const EACH: usize = 60;

/// Share of right answers over random places, turns and colours, for radii in a range of units and noise of a deviation
/// (in 0..=1) on every channel.
fn accuracy(radii: (f64, f64), noise: f64, size: (u32, u32), seed: u64) -> f64 {
    let mut dice = Dice::new(seed);
    let mut right = 0;
    for shape in Shape::ALL {
        for _ in 0..EACH {
            let radius = dice.within(radii.0, radii.1);
            let reach = 1.28 * radius;
            let place = |dice: &mut Dice| dice.within(reach, 64.0 - reach);
            let pose = Pose {
                centre: (place(&mut dice), place(&mut dice)),
                radius,
                turn: dice.within(0.0, 2.0 * PI),
            };
            let colour = dice.pick(&Colour::HUES).unwrap();
            let grounds: Vec<Colour> = Colour::ALL.into_iter().filter(|c| *c != colour).collect();
            let mut frame = draw((shape, colour), dice.pick(&grounds).unwrap(), pose, size);
            add_noise(&mut frame, noise, &mut dice);
            let seen = look(&frame).unwrap().subject;
            if seen
                .and_then(|subject| subject.shape)
                .is_some_and(|found| found.shape == shape)
            {
                right += 1;
            }
        }
    }
    right as f64 / (4 * EACH) as f64
}

fn add_noise(frame: &mut Frame, deviation: f64, dice: &mut Dice) {
    if deviation > 0.0 {
        for value in &mut frame.rgb {
            // Twelve uniform numbers: variance 1, close to normal.
            let normal: f64 = (0..12).map(|_| dice.within(-0.5, 0.5)).sum();
            *value = (f64::from(*value) + 255.0 * deviation * normal)
                .round()
                .clamp(0.0, 255.0) as u8;
        }
    }
}

#[test]
fn the_classifier_is_as_good_as_its_documentation_says() {
    let size = (64, 64);
    let cases = [
        // Below a radius of 6.2 a triangle covers less than the 2 % of the frame that make a subject.
        // Radii in pixels, deviation of the noise, least share of right answers.
        ((6.5, 8.0), 0.0, 1.0),
        ((8.0, 12.0), 0.0, 1.0),
        ((12.0, 24.0), 0.0, 1.0),
        ((6.5, 8.0), 0.05, 0.99),
        ((8.0, 12.0), 0.05, 1.0),
        ((12.0, 24.0), 0.05, 1.0),
    ];
    let mut found = Vec::new();
    for (seed, (radii, noise, least)) in (1..).zip(cases) {
        let share = accuracy(radii, noise, size, seed);
        found.push(((radii, noise), share, share >= least));
    }
    println!("accuracy: {found:#?}");
    assert!(found.iter().all(|(.., good)| *good), "{found:#?}");
}

#[test]
fn too_much_noise_is_said_to_be_unreadable_rather_than_misread() {
    // A border of deviation 0.1 is of no one colour, so that nothing is taken for a subject.
    assert_eq!(accuracy((8.0, 12.0), 0.1, (64, 64), 31), 0.0);
}

#[test]
fn other_frame_sizes_are_as_good() {
    // At 128 pixels a radius of 8 units has 16 pixels.
    let large = accuracy((8.0, 12.0), 0.02, (128, 128), 21);
    let wide = accuracy((8.0, 12.0), 0.02, (96, 64), 22);
    assert!(large == 1.0 && wide == 1.0, "{large} {wide}");
}

#[test]
fn what_is_no_shape_is_not_called_one() {
    // A thin bar and a frame without a subject.
    let mut bar = Frame::filled(64, 64, [60, 70, 120]);
    for x in 6..58 {
        for y in 30..34 {
            let at = (y * 64 + x) * 3;
            bar.rgb[at..at + 3].copy_from_slice(&[250, 230, 20]);
        }
    }
    let subject = look(&bar).unwrap().subject.unwrap();
    assert_eq!(subject.shape, None);
    assert_eq!(
        look(&Frame::filled(64, 64, [60, 70, 120])).unwrap().subject,
        None
    );
}
