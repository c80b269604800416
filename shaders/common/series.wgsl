// Series side by side: `steps` in time at each of `positions`. Mirror: src/viz/mirror.rs, Series.
struct Series {
    steps: u32,
    positions: u32,
    spare: vec2<u32>,
}
