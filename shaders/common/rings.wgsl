// A plane of `h` rows whose rings around the middle are summed. Mirror: src/viz/mirror.rs, Rings.
struct Rings {
    h: u32,
    w: u32,
    rings: u32,
    spare: u32,
}
