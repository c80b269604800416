use candle_core::{DType, Device};
use spectral_motion::nn::noise::{NoiseStream, Purpose, philox4x32_10};

use super::support::numbers;

/// The known answers published with Random123 (kat_vectors, philox4x32 with 10 rounds).
#[test]
fn philox_gives_the_published_answers() {
    assert_eq!(
        philox4x32_10([0; 4], [0; 2]),
        [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
    );
    assert_eq!(
        philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
        [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
    );
    assert_eq!(
        philox4x32_10(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0]
        ),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn normal_numbers_have_the_moments_of_a_normal_distribution() {
    let n = 200_000;
    let z = numbers(
        &NoiseStream::new(7, Purpose::Noise)
            .normal(n, DType::F64, &Device::Cpu)
            .unwrap(),
    );
    let moment = |p: i32| z.iter().map(|v| v.powi(p)).sum::<f64>() / n as f64;
    // Five standard errors: sqrt(var(z^p) / n) with var 1, 2, 15, 96 for p = 1..4.
    let error = |variance: f64| 5.0 * (variance / n as f64).sqrt();
    assert!(moment(1).abs() < error(1.0));
    assert!((moment(2) - 1.0).abs() < error(2.0));
    assert!(moment(3).abs() < error(15.0));
    assert!((moment(4) - 3.0).abs() < error(96.0));
}

#[test]
fn streams_differ_by_purpose_and_seed_and_repeat() {
    let draw = |seed, purpose| {
        numbers(
            &NoiseStream::new(seed, purpose)
                .normal(16, DType::F32, &Device::Cpu)
                .unwrap(),
        )
    };
    let first = draw(1, Purpose::Noise);
    assert_eq!(first, draw(1, Purpose::Noise));
    assert_ne!(first, draw(2, Purpose::Noise));
    assert_ne!(first, draw(1 << 32, Purpose::Noise));
    assert_ne!(first, draw(1, Purpose::Init));
    assert_ne!(draw(1, Purpose::Preview), draw(1, Purpose::Timestep));
}

#[test]
fn a_stream_resumes_where_it_was() {
    let mut stream = NoiseStream::new(3, Purpose::Timestep);
    stream.normal((3, 5), DType::F32, &Device::Cpu).unwrap();
    stream.below(1000);
    let position = stream.position();
    let next = (
        stream.below(1000),
        numbers(&stream.normal(9, DType::F32, &Device::Cpu).unwrap()),
    );
    let mut resumed = NoiseStream::new(3, Purpose::Timestep);
    resumed.seek(position);
    assert_eq!(
        next,
        (
            resumed.below(1000),
            numbers(&resumed.normal(9, DType::F32, &Device::Cpu).unwrap())
        )
    );
}

#[test]
fn whole_numbers_are_in_range_and_even() {
    let mut stream = NoiseStream::new(5, Purpose::Timestep);
    let mut counts = [0u32; 7];
    for _ in 0..70_000 {
        counts[stream.below(7) as usize] += 1;
    }
    // Five standard deviations of a binomial count: sqrt(70000 / 7 * 6 / 7) = 93.
    assert!(
        counts.iter().all(|&c| c.abs_diff(10_000) < 465),
        "{counts:?}"
    );
    assert_eq!((stream.below(1), stream.below(0)), (0, 0));
}

#[test]
fn lanes_begin_at_the_place_of_their_stream_and_share_no_number() {
    let mut stream = NoiseStream::new(3, Purpose::Dropout);
    stream.seek(17);
    let draw = |mut stream: NoiseStream| {
        let drawn = numbers(&stream.normal(64, DType::F64, &Device::Cpu).unwrap());
        assert_eq!(stream.position(), 17 + 16, "four numbers a block");
        drawn
    };
    let lanes: Vec<Vec<f64>> = (0..3).map(|lane| draw(stream.lane(lane))).collect();
    assert_eq!(lanes[0], draw(stream.clone()), "a stream is its lane 0");
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert!(lanes[a].iter().all(|number| !lanes[b].contains(number)));
    }
}
