//! Perceptual colour maps, computed as paths in the OKLab colour space.
//!
//! OKLab (B. Ottosson, "A perceptual color space for image processing", 2020) has a lightness that looks even, so a map
//! whose lightness is a straight line shows equal steps of a value as equal steps of brightness, also without colour.
//! The maps are our own paths, in the spirit of viridis and inferno; none is a copied table.

/// A way to turn a number in 0..=1 into a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Map {
    /// Dark violet over red to pale yellow: magnitudes.
    Magnitude,
    /// Blue over near-black to orange, equally bright at both ends: signed values, 0 in the middle.
    Diverging,
    /// A circle of hues of one lightness whose ends meet: phases.
    Cyclic,
}

impl Map {
    /// The colour at `t`, clamped to 0..=1.
    pub fn colour(self, t: f64) -> [u8; 3] {
        let t = t.clamp(0.0, 1.0);
        match self {
            Self::Magnitude => {
                // Hue runs from violet (300 degrees) up through red (29) to yellow (105); colour fades at both ends.
                let chroma = 0.19 * (std::f64::consts::PI * (0.08 + 0.84 * t)).sin();
                oklch(0.10 + 0.86 * t, chroma, 300.0 + 165.0 * t)
            }
            Self::Diverging => {
                let side = 2.0 * t - 1.0;
                let hue = if side < 0.0 { 250.0 } else { 60.0 };
                oklch(0.16 + 0.64 * side.abs(), 0.15 * side.abs().sqrt(), hue)
            }
            Self::Cyclic => oklch(0.70, CYCLE_CHROMA, 360.0 * t),
        }
    }

    /// 256 colours from `t = 0` to `t = 1`.
    pub fn table(self) -> Vec<[u8; 3]> {
        (0..=255)
            .map(|i| self.colour(f64::from(i) / 255.0))
            .collect()
    }
}

/// About the most that sRGB can show at lightness 0.7 in every hue.
const CYCLE_CHROMA: f64 = 0.115;

/// A motion as a colour: hue is the direction (as [`Map::Cyclic`], right at its start, turning as y grows downwards),
/// lightness and strength grow with the speed, which is 1 at most. No motion is dark grey.
pub fn of_motion(dx: f64, dy: f64) -> [u8; 3] {
    let speed = dx.hypot(dy).min(1.0);
    oklch(
        0.20 + 0.55 * speed,
        CYCLE_CHROMA * speed,
        dy.atan2(dx).to_degrees(),
    )
}

/// sRGB of lightness 0..=1, chroma and hue in degrees; the chroma is lowered until the colour can be shown.
fn oklch(lightness: f64, chroma: f64, hue_degrees: f64) -> [u8; 3] {
    let (sin, cos) = hue_degrees.to_radians().sin_cos();
    let linear = |chroma: f64| linear_rgb(lightness, chroma * cos, chroma * sin);
    let shown = |rgb: [f64; 3]| rgb.iter().all(|v| (-1e-6..=1.0 + 1e-6).contains(v));
    let mut chroma = chroma;
    while chroma > 0.0 && !shown(linear(chroma)) {
        chroma -= 0.002;
    }
    linear(chroma.max(0.0)).map(encode)
}

/// OKLab to linear sRGB, with the published matrices.
fn linear_rgb(lightness: f64, a: f64, b: f64) -> [f64; 3] {
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
    ]
}

/// Linear light to an 8-bit sRGB value (IEC 61966-2-1).
fn encode(linear: f64) -> u8 {
    let v = linear.clamp(0.0, 1.0);
    let encoded = if v <= 0.003_130_8 {
        12.92 * v
    } else {
        1.055 * v.powf(1.0 / 2.4) - 0.055
    };
    (encoded * 255.0).round() as u8
}
