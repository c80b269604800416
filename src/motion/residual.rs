//! Motion vectors: differences of successive frames.

/// The signed motion vectors `v[f+1] - v[f]` of a clip of planes: one plane fewer than `planes`.
///
/// Planes of unequal length are compared over their common part.
pub fn residuals(planes: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let difference = |pair: &[Vec<f32>]| {
        let steps = pair[0].iter().zip(&pair[1]);
        steps.map(|(now, next)| next - now).collect()
    };
    planes.windows(2).map(difference).collect()
}

/// `|x|` of every value: the absolute motion vectors of the released SMA code, from [`residuals`].
pub fn absolute(planes: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let plane = |plane: &Vec<f32>| plane.iter().map(|v| v.abs()).collect();
    planes.iter().map(plane).collect()
}

/// Brightness of 8-bit RGB pixels in 0..=1, weighted as in Rec. 709 on the encoded values.
pub fn luma(rgb: &[u8]) -> Vec<f32> {
    let bright = |p: &[u8]| {
        (0.2126 * f32::from(p[0]) + 0.7152 * f32::from(p[1]) + 0.0722 * f32::from(p[2])) / 255.0
    };
    rgb.chunks_exact(3).map(bright).collect()
}
