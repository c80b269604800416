//! Residuals, optical flow, tracks and pictures against scenes drawn with known motion.

use spectral_motion::motion::picture::{
    Curve, Range, colour::Map, colour::of_motion, colour_bar, contact_sheet, flow_key, from_flow,
    from_plane, plot,
};
use spectral_motion::motion::{
    ColourClass, Flow, Track, absolute, compare, luma, optical_flow, residuals, track,
};
use spectral_motion::video::Frame;

const W: usize = 96;
const H: usize = 64;

fn close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: got {got}, want {want}"
    );
}

/// A smooth texture with structure in all directions, moved by `(dx, dy)` pixels.
fn texture(dx: f64, dy: f64) -> Vec<f32> {
    let value = |x: f64, y: f64| {
        0.5 + 0.12 * (0.31 * x + 0.17 * y).sin()
            + 0.12 * (0.23 * y - 0.11 * x + 1.0).sin()
            + 0.1 * (0.47 * x - 0.41 * y + 2.0).cos()
            + 0.08 * (0.13 * x + 0.53 * y).cos()
    };
    (0..W * H)
        .map(|i| value((i % W) as f64 - dx, (i / W) as f64 - dy) as f32)
        .collect()
}

/// A plain disc on a plain ground, edges one pixel wide.
fn disc(x: f64, y: f64, radius: f64, colour: [u8; 3], ground: [u8; 3]) -> Frame {
    let mut frame = Frame::filled(W as u32, H as u32, ground);
    for i in 0..W * H {
        let away = ((i % W) as f64 + 0.5 - x).hypot((i / W) as f64 + 0.5 - y);
        let cover = (radius - away + 0.5).clamp(0.0, 1.0);
        for c in 0..3 {
            let mixed = f64::from(ground[c]) * (1.0 - cover) + f64::from(colour[c]) * cover;
            frame.rgb[i * 3 + c] = mixed.round() as u8;
        }
    }
    frame
}

#[test]
fn residuals_are_differences_of_successive_frames() {
    let planes = vec![vec![1.0, 5.0], vec![3.0, 4.0], vec![3.0, 0.0]];
    let signed = residuals(&planes);
    assert_eq!(signed, [[2.0, -1.0], [0.0, -4.0]]);
    assert_eq!(absolute(&signed), [[2.0, 1.0], [0.0, 4.0]]);
    assert!(residuals(&planes[..1]).is_empty());
    let white_and_green = luma(&[255, 255, 255, 0, 255, 0]);
    close(f64::from(white_and_green[0]), 1.0, 1e-6, "white");
    close(
        f64::from(white_and_green[1]),
        0.7152,
        1e-6,
        "green, Rec. 709",
    );
}

#[test]
fn flow_finds_a_translation_to_a_quarter_pixel() {
    for (dx, dy) in [
        (0.0, 0.0),
        (0.4, 0.0),
        (-1.3, 0.7),
        (3.0, -2.0),
        (-5.25, 4.5),
        (8.0, 1.0),
    ] {
        let flow = optical_flow(&texture(0.0, 0.0), &texture(dx, dy), W, H);
        let (mx, my) = flow.median();
        close(mx, dx, 0.05, "median x");
        close(my, dy, 0.05, "median y");
        // Away from the border, where what moves in or out has no partner, each pixel is right.
        let border = 12;
        let mut worst = 0.0f64;
        for y in border..H - border {
            for x in border..W - border {
                let i = y * W + x;
                worst = worst.max((f64::from(flow.dx[i]) - dx).hypot(f64::from(flow.dy[i]) - dy));
            }
        }
        assert!(worst < 0.25, "({dx}, {dy}): off by up to {worst} px");
    }
}

#[test]
fn flow_follows_a_plain_subject_and_leaves_its_ground_alone() {
    let at = |x: f64, y: f64| luma(&disc(x, y, 14.0, [230, 40, 40], [70, 90, 120]).rgb);
    let (from, to) = (at(40.0, 30.0), at(43.0, 28.5));
    let flow = optical_flow(&from, &to, W, H);
    let moved = absolute(&residuals(&[from.clone(), to]));
    let (dx, dy) = flow.weighted_mean(&moved[0]);
    // A flat disc shows its motion only around its edge, where the window also sees the still ground.
    close(dx, 3.0, 0.75, "subject x");
    close(dy, -1.5, 0.75, "subject y");
    close(flow.median().0, 0.0, 0.05, "ground x");
    let still = optical_flow(&from, &from, W, H);
    close(f64::from(still.max_speed()), 0.0, 1e-6, "still clip");
}

#[test]
fn flow_of_flat_or_unfitting_planes_is_zero() {
    let flat = vec![0.5; 40];
    assert_eq!(optical_flow(&flat, &flat, 8, 5).max_speed(), 0.0);
    assert_eq!(optical_flow(&flat, &flat[1..], 8, 5).dx, vec![0.0; 40]);
    assert!(optical_flow(&[], &[], 0, 0).dx.is_empty());
    assert_eq!(optical_flow(&[0.3], &[0.9], 1, 1).max_speed(), 0.0);
    assert_eq!(
        Flow {
            width: 1,
            height: 1,
            dx: vec![2.0],
            dy: vec![1.0]
        }
        .weighted_mean(&[0.0]),
        (0.0, 0.0)
    );
}

#[test]
fn a_colour_class_is_a_bin_of_hue_with_floors() {
    let class = |name: &str| name.parse::<ColourClass>().unwrap();
    for (name, rgb) in [
        ("red", [255, 0, 0]),
        ("yellow", [255, 234, 0]),
        ("green", [0, 255, 21]),
        ("cyan", [0, 234, 255]),
        ("blue", [0, 43, 255]),
        ("purple", [213, 0, 255]),
    ] {
        for other in ["red", "yellow", "green", "cyan", "blue", "purple"] {
            assert_eq!(
                class(other).contains(rgb),
                name == other,
                "{rgb:?} as {other}"
            );
        }
    }
    let red = class("red");
    // Hue wraps: 350 degrees is 10 away from red; 330 is 30 away.
    assert!(red.contains([255, 0, 43]));
    assert!(!red.contains([255, 0, 128]));
    // Floors: value 0.5, saturation 0.3, greys and black.
    assert!(!red.contains([128, 0, 0]));
    assert!(!red.contains([255, 179, 179]));
    assert!(!red.contains([200, 200, 200]));
    assert!(!red.contains([0, 0, 0]));
    let error = "mauve".parse::<ColourClass>().unwrap_err();
    assert!(
        error.contains("mauve") && error.contains("purple"),
        "{error}"
    );
}

#[test]
fn a_drawn_subject_is_tracked_to_a_tenth_of_a_pixel() {
    let path: Vec<(f64, f64)> = (0..8)
        .map(|i| {
            (
                30.0 + 5.0 * f64::from(i),
                32.0 + 12.0 * (0.9 * f64::from(i)).sin(),
            )
        })
        .collect();
    let frames: Vec<Frame> = path
        .iter()
        .map(|&(x, y)| disc(x, y, 12.0, [250, 20, 10], [40, 60, 120]))
        .collect();
    let found = track(&frames, &"red".parse().unwrap());
    // Half-covered edge pixels fall on either side of the floors, all around alike.
    let score = compare(&found, &Track::from_path(&path));
    assert!(score.mean_error_px.unwrap() < 0.1, "{score:?}");
    assert!(
        score.corr_x.unwrap() > 0.999 && score.corr_y.unwrap() > 0.999,
        "{score:?}"
    );
    assert_eq!((score.frames, score.missing), (8, 0));
    let area = std::f64::consts::PI * 144.0 / (W * H) as f64;
    close(score.mean_share, area, 0.05 * area, "share of a disc");
    // The same path told in units of half a pixel.
    let halved = compare(
        &found.scaled(0.5, 0.5),
        &Track::from_path(&path).scaled(0.5, 0.5),
    );
    close(
        halved.mean_error_px.unwrap(),
        score.mean_error_px.unwrap() / 2.0,
        1e-12,
        "scaled",
    );
    // Against the mirrored path x runs backwards.
    let mirrored: Vec<_> = path.iter().map(|&(x, y)| (W as f64 - x, y)).collect();
    let found = track(&frames, &"red".parse().unwrap());
    close(
        compare(&found, &Track::from_path(&mirrored))
            .corr_x
            .unwrap(),
        -1.0,
        1e-3,
        "mirrored",
    );
}

#[test]
fn lost_and_still_subjects_are_said_to_be_so() {
    let blue = [40, 60, 120];
    let frames = [
        disc(40.0, 30.0, 12.0, [250, 20, 10], blue),
        // Radius 5: 1.3 % of the picture, less than the 2 % that count.
        disc(45.0, 30.0, 5.0, [250, 20, 10], blue),
        disc(50.0, 30.0, 12.0, [250, 20, 10], blue),
        Frame::filled(W as u32, H as u32, blue),
        disc(60.0, 30.0, 12.0, [250, 20, 10], blue),
    ];
    let found = track(&frames, &"red".parse().unwrap());
    let seen: Vec<bool> = found.points.iter().map(Option::is_some).collect();
    assert_eq!(seen, [true, false, true, false, true]);
    assert!(found.share[1] > 0.01 && found.share[1] < 0.02 && found.share[3] == 0.0);
    let path: Vec<_> = [40.0, 45.0, 50.0, 55.0, 60.0].map(|x| (x, 30.0)).to_vec();
    let score = compare(&found, &Track::from_path(&path));
    assert_eq!((score.frames, score.missing), (5, 2));
    assert!(score.corr_x.unwrap() > 0.999);
    assert_eq!(score.corr_y, None, "neither moves in y");
    // A shorter film: what is not there is missing.
    let short = Track {
        points: found.points[..1].to_vec(),
        share: found.share[..1].to_vec(),
    };
    let score = compare(&short, &Track::from_path(&path));
    assert_eq!((score.missing, score.corr_x), (4, None));
    let nothing = compare(&Track::default(), &Track::default());
    assert_eq!(
        (nothing.frames, nothing.mean_error_px, nothing.mean_share),
        (0, None, 0.0)
    );
}

/// Relative luminance of an sRGB colour, from the sRGB standard.
fn luminance(rgb: [u8; 3]) -> f64 {
    let linear = |v: u8| {
        let v = f64::from(v) / 255.0;
        if v <= 0.04045 {
            v / 12.92
        } else {
            ((v + 0.055) / 1.055).powf(2.4)
        }
    };
    0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2])
}

#[test]
fn colour_maps_are_perceptual() {
    let magnitude = Map::Magnitude.table();
    for pair in magnitude.windows(2) {
        // Ever brighter (one 8-bit step of one channel is 0.0005 here).
        assert!(luminance(pair[1]) > luminance(pair[0]) - 5e-4, "{pair:?}");
    }
    assert!(luminance(magnitude[0]) < 0.01 && luminance(magnitude[255]) > 0.8);
    let diverging = Map::Diverging.table();
    for i in 0..128 {
        let (low, high) = (luminance(diverging[i]), luminance(diverging[255 - i]));
        // OKLab lightness is equal; luminance of blue and orange then differs by less than 6 %.
        assert!((low - high).abs() < 0.06, "{i}: {low} {high}");
    }
    assert!(luminance(diverging[128]) < 0.02, "no motion is dark");
    let cyclic = Map::Cyclic.table();
    let spread = cyclic
        .iter()
        .map(|&c| luminance(c))
        .fold((1.0f64, 0.0f64), |(a, b), l| (a.min(l), b.max(l)));
    assert!(
        spread.1 - spread.0 < 0.1,
        "one lightness all around: {spread:?}"
    );
    let jump = |a: [u8; 3], b: [u8; 3]| (0..3).map(|c| a[c].abs_diff(b[c])).max().unwrap();
    assert!(jump(cyclic[0], cyclic[255]) <= 2, "the ends meet");
    for pair in cyclic.windows(2) {
        assert!(jump(pair[0], pair[1]) <= 6, "no edges: {pair:?}");
    }
}

#[test]
fn motion_colours_tell_direction_and_speed() {
    assert_eq!(of_motion(0.0, 0.0), of_motion(-0.0, 0.0));
    let [r, g, b] = of_motion(0.0, 0.0);
    assert!(
        r.abs_diff(g) <= 1 && g.abs_diff(b) <= 1,
        "no motion is grey"
    );
    let directions =
        [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)].map(|(x, y)| of_motion(x, y));
    for i in 0..4 {
        for j in 0..i {
            let apart: u32 = (0..3)
                .map(|c| u32::from(directions[i][c].abs_diff(directions[j][c])))
                .sum();
            assert!(apart > 100, "{directions:?}");
        }
        assert!(luminance(directions[i]) > luminance([r, g, b]) + 0.2);
    }
    assert_eq!(
        of_motion(5.0, 0.0),
        of_motion(1.0, 0.0),
        "faster than full speed is full speed"
    );
    // The key shows at each place the colour of the motion towards it.
    let key = flow_key(41);
    assert_eq!(key.pixel(20, 20), of_motion(0.0, 0.0));
    assert_eq!(key.pixel(40, 20), of_motion(40.5 / 20.5 - 1.0, 0.0));
    let flow = Flow {
        width: 2,
        height: 1,
        dx: vec![0.0, 4.0],
        dy: vec![2.0, 0.0],
    };
    let picture = from_flow(&flow, 4.0);
    assert_eq!(picture.pixel(0, 0), of_motion(0.0, 0.5));
    assert_eq!(picture.pixel(1, 0), of_motion(1.0, 0.0));
}

#[test]
fn planes_become_pictures_within_their_range() {
    let plane = vec![-2.0f32, 0.0, 1.0, f32::NAN, 9.0, -9.0];
    let range = Range::balanced([&vec![-2.0f32, 0.5]]);
    assert_eq!((range.low, range.high), (-2.0, 2.0));
    let picture = from_plane(&plane, 3, Map::Diverging, range);
    let table = Map::Diverging.table();
    assert_eq!((picture.width, picture.height), (3, 2));
    assert_eq!(picture.pixel(0, 0), table[0]);
    assert_eq!(picture.pixel(1, 0), table[128]);
    assert_eq!(picture.pixel(0, 1), [0, 0, 0], "not a number");
    assert_eq!(
        (picture.pixel(1, 1), picture.pixel(2, 1)),
        (table[255], table[0])
    );
    assert_eq!(
        Range::from_zero([&vec![0.0f32, 0.0]]).high,
        1.0,
        "never an empty range"
    );

    let cells: Vec<Frame> = (0..5)
        .map(|i| Frame::filled(6, 4, [i * 10, 200, 0]))
        .collect();
    let sheet = contact_sheet(&cells, 3, Some(&colour_bar(Map::Magnitude, 12)));
    assert!(sheet.is_valid());
    assert_eq!((sheet.width, sheet.height), (4 + 3 * 10, 4 + 2 * 8 + 14));
    assert_eq!(sheet.pixel(4, 4), [0, 200, 0]);
    assert_eq!(sheet.pixel(4 + 10, 4 + 8), [40, 200, 0], "the fifth cell");
    assert_eq!(
        sheet.pixel(4, 4 + 16),
        Map::Magnitude.table()[0],
        "the key's start"
    );
    assert!(contact_sheet(&[], 3, None).is_valid());
}

#[test]
fn a_plot_puts_ink_where_the_curve_is() {
    let line = Curve {
        points: vec![(0.0, 0.0), (1.0, 1.0)],
        range: (0.0, 1.0),
        colour: [255, 255, 255],
    };
    let broken = Curve {
        points: vec![(0.0, f64::NAN), (1.0, 1.0)],
        ..line.clone()
    };
    let picture = plot(
        (124, 84),
        (0.0, 1.0),
        0.1,
        &[line, broken],
        &[(0.25, [255, 0, 0])],
    );
    assert!(picture.is_valid());
    // Margins of 12: the middle of the diagonal lies at the centre of the picture.
    assert_eq!(picture.pixel(62, 41), [255, 255, 255]);
    assert_eq!(
        picture.pixel(12 + 25, 20),
        [255, 0, 0],
        "the mark at a quarter"
    );
    assert_ne!(picture.pixel(80, 70), [255, 255, 255]);
}
