//! A scorecard in a person's words, for the command line and the window.

use super::score::Scorecard;

/// One line of a scorecard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is about, for example `Motion follows the reference`.
    pub title: &'static str,
    /// The same where there is little room; none for what need not be there.
    pub short: Option<&'static str>,
    /// The number with its unit.
    pub value: String,
    /// What the number means, in a sentence or two.
    pub meaning: String,
}

/// What can be said of a result: numbers that are not known are left out.
#[must_use]
pub fn lines(card: &Scorecard) -> Vec<Line> {
    let mut found = motion_lines(card);
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let mut share = |(title, short), value: Option<f64>, meaning: &str| {
        found.extend(value.map(|value| Line {
            title,
            short,
            value: percent(value),
            meaning: meaning.to_owned(),
        }));
    };
    let agreement = &card.agreement;
    share(
        ("Colour as asked", Some("Colour")),
        agreement.colour,
        "Frames in which the median hue of the subject is within 25 degrees of the colour in your words.",
    );
    share(
        ("Shape as asked", Some("Shape")),
        agreement.shape,
        "Frames in which the subject overlaps best with the shape in your words, among circle, square, triangle and star.",
    );
    share(
        ("Ground as asked", Some("Ground")),
        agreement.ground,
        "Frames whose border is nearest to the ground's colour in your words.",
    );
    share(
        ("Look of the reference left", Some("Look left")),
        card.leakage.mean,
        "Frames in which colour, shape or ground are still the reference's where your words ask for others; the mean of the three. 0 is best.",
    );
    share(
        ("Colours in common", None),
        Some(card.leakage.palette),
        "Overlap of the colours of all pixels of result and reference. Near 100 % the picture was copied; a low number is good where another look was asked for.",
    );
    found
}

fn motion_lines(card: &Scorecard) -> Vec<Line> {
    let mut found = Vec::new();
    let mut line = |(title, short), value: Option<String>, meaning: String| {
        found.extend(value.map(|value| Line {
            title,
            short,
            value,
            meaning,
        }));
    };
    let number = |value: Option<f64>| value.map(|value| format!("{value:.2}"));
    let whose = if card.path_is_true {
        "the true path"
    } else {
        "the path of the reference's subject"
    };
    let path = card.path;
    line(
        (
            "Motion follows the reference",
            Some("Motion follows the reference"),
        ),
        number(path.and_then(|path| path.corr)),
        format!(
            "Correlation of the subject's path with {whose}: 1 is the same motion, 0 none of it, -1 the opposite."
        ),
    );
    let [width, height] = card.size_px;
    line(
        ("Path error", Some("Off by")),
        path.and_then(|path| path.mean_error_px)
            .map(|error| format!("{error:.1} px")),
        format!("Mean distance from {whose}, in pixels of a picture of {width}×{height}."),
    );
    line(
        ("Subject lost", None),
        path.filter(|path| path.missing > 0).map(|path| format!("{} of {} frames", path.missing, path.frames)),
        "Frames in which the subject's colour covers less than 2 % of the picture, in the result or in the reference.".to_owned(),
    );
    line(
        ("Motion directions", Some("Directions")),
        number(card.fidelity),
        "Motion fidelity: how alike the directions of moving points are, 1 is the same, -1 the opposite. Points are followed by optical flow, a stand-in for the trackers of published figures, with which it cannot be compared.".to_owned(),
    );
    line(
        ("Motion by time scale, distance", None),
        number(card.spectrum.band_distance),
        "Distance of the motion in the wavelet bands along time, weighted by the reference's energy: 0 is motion at the same places and time scales, 1 nothing in common.".to_owned(),
    );
    line(
        ("Motion by fineness, distance", None),
        number(card.spectrum.ring_distance),
        "Distance of the amplitude spectra of the motion, ring by ring, weighted by the reference's energy: 0 is motion as coarse or fine as the reference's.".to_owned(),
    );
    line(
        ("Pace", None),
        number(card.pace),
        "How alike result and reference spend their motion over time: 1 is the same pace; flicker or a freeze lowers it. A stand-in for frame consistency that needs no model.".to_owned(),
    );
    found
}
