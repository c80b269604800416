//! Image models inflated to clips: the networks, what learns in them, and whole runs of the program.

mod jobs;
mod networks;
mod training;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Var};
use spectral_motion::methods::Method;
use spectral_motion::models::{ImageNetwork, Inflating, Inflation, ModelFolder, TemporalBias};

use crate::common::image_model;

const METHODS: [Method; 2] = [Method::TuneAVideo, Method::ControlVideo];

/// The committed image model, inflated.
fn inflated(
    inflation: Inflation,
    bias: TemporalBias,
    trains: &dyn Fn(&str) -> bool,
) -> (ImageNetwork, BTreeMap<String, Var>) {
    let inflating = Inflating {
        inflation,
        bias,
        seed: 3,
        control: Some(1.0),
        dtype: DType::F32,
    };
    let folder = ModelFolder::open(&image_model()).unwrap();
    folder
        .load_image_network(&inflating, trains, &Device::Cpu)
        .unwrap()
}
