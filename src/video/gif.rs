//! Writing GIF with one palette for the whole clip, and the comment inside a GIF.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, RgbaImage};

use super::export::{Job, Progress, Written, report};
use super::palette::Palette;
use super::recipe::MAX_RECIPE_BYTES;
use super::{Frame, VideoError};

/// Shortest time a frame stays, in hundredths of a second: browsers slow down anything faster.
const SHORTEST_CENTISECS: u32 = 2;

/// When each frame appears, in hundredths of a second, so that rounding does not add up.
fn delay_centisecs(index: usize, fps: f64) -> u32 {
    let at = |i: usize| (i as f64 * 100.0 / fps).round() as u32;
    (at(index + 1) - at(index)).max(SHORTEST_CENTISECS)
}

/// Writes the frames of a job as an endlessly repeating GIF.
///
/// A palette per frame would make still areas flicker, so that all frames share one of at most 256 colours.
pub(super) fn write(job: &Job, file: File, progress: Progress) -> Result<Written, VideoError> {
    let total = job.frames.len();
    let mut histogram = HashMap::new();
    for index in 0..total {
        report(&mut *progress, 0, total)?;
        count_colours(&job.frame(index), &mut histogram);
    }
    let mut palette = Palette::of(&histogram);
    let mut writer = BufWriter::new(file);
    {
        // The lowest effort number is the most careful one; it is not reached, since every frame has at most 256 colours.
        let mut encoder = GifEncoder::new_with_speed(&mut writer, 1);
        encoder
            .set_repeat(Repeat::Infinite)
            .map_err(|e| job.failed(e))?;
        for index in 0..total {
            report(&mut *progress, index, total)?;
            let picture = paint(&mut palette, &job.frame(index));
            let millis = delay_centisecs(index, job.fps) * 10;
            let delay = Delay::from_numer_denom_ms(millis, 1);
            encoder
                .encode_frame(image::Frame::from_parts(picture, 0, 0, delay))
                .map_err(|e| job.failed(e))?;
        }
    }
    let mut file = writer.into_inner().map_err(|e| job.failed(e))?;
    if let Some(text) = &job.options.recipe {
        append_comment(&mut file, text).map_err(|e| job.failed(e))?;
    }
    report(progress, total, total)?;
    let mut notes = Vec::new();
    if job.fps > 100.0 / f64::from(SHORTEST_CENTISECS) {
        notes.push("GIF cannot show more than 50 frames a second; the film runs slower.".into());
    }
    Ok(Written {
        encoder: "gif".into(),
        notes,
    })
}

fn count_colours(frame: &Frame, histogram: &mut HashMap<[u8; 3], u64>) {
    for pixel in frame.rgb.as_chunks::<3>().0 {
        *histogram.entry(*pixel).or_default() += 1;
    }
}

/// Paints a frame with the colours of the palette.
fn paint(palette: &mut Palette, frame: &Frame) -> RgbaImage {
    RgbaImage::from_fn(frame.width, frame.height, |x, y| {
        let [r, g, b] = palette.nearest(frame.pixel(x, y), x, y);
        image::Rgba([r, g, b, 255])
    })
}

/// Byte that ends a GIF, and those that begin a comment block (GIF89a specification, sections 27 and 24).
const TRAILER: u8 = 0x3B;
const EXTENSION: u8 = 0x21;
const COMMENT: u8 = 0xFE;
const IMAGE: u8 = 0x2C;

/// Replaces the trailer of a GIF by a comment block and a new trailer.
fn append_comment(file: &mut File, text: &str) -> std::io::Result<()> {
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    // Without a trailer, which the encoder writes when it is dropped, the comment goes to the very end.
    file.seek(SeekFrom::End(if last[0] == TRAILER { -1 } else { 0 }))?;
    let mut block = vec![EXTENSION, COMMENT];
    for part in text.as_bytes().chunks(255) {
        block.push(part.len() as u8);
        block.extend_from_slice(part);
    }
    block.extend([0, TRAILER]);
    file.write_all(&block)
}

/// Reads one byte; `None` at the end of the file, which a cut GIF reaches anywhere.
fn byte(reader: &mut impl Read) -> Option<u8> {
    let mut byte = [0];
    reader.read_exact(&mut byte).ok().map(|()| byte[0])
}

fn skip(reader: &mut impl Read, bytes: u64) -> Option<()> {
    let skipped = std::io::copy(&mut reader.take(bytes), &mut std::io::sink()).ok()?;
    (skipped == bytes).then_some(())
}

/// Bytes of the colour table that a flags byte announces.
fn table_bytes(flags: u8) -> u64 {
    if flags & 0x80 == 0 {
        0
    } else {
        3 << ((flags & 7) + 1)
    }
}

/// Passes over data sub-blocks, keeping at most one byte more than a recipe may have.
fn sub_blocks(reader: &mut impl Read, keep: bool) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    loop {
        let length = u64::from(byte(reader)?);
        if length == 0 {
            return Some(kept);
        }
        if keep && kept.len() <= MAX_RECIPE_BYTES {
            let mut part = reader.take(length);
            part.read_to_end(&mut kept).ok()?;
        } else {
            skip(reader, length)?;
        }
    }
}

/// The last comment of a GIF, which is where [`append_comment`] puts the recipe.
fn last_comment(reader: &mut impl Read) -> Option<Vec<u8>> {
    skip(reader, 10)?;
    let flags = byte(reader)?;
    skip(reader, 2 + table_bytes(flags))?;
    let mut found = None;
    loop {
        match byte(reader) {
            Some(EXTENSION) => {
                let is_comment = byte(reader) == Some(COMMENT);
                match sub_blocks(reader, is_comment) {
                    Some(text) if is_comment => found = Some(text),
                    Some(_) => {}
                    None => return found,
                }
            }
            Some(IMAGE) => {
                skip(reader, 8)?;
                let flags = byte(reader)?;
                skip(reader, table_bytes(flags) + 1)?;
                sub_blocks(reader, false)?;
            }
            _ => return found,
        }
    }
}

/// The comment inside a GIF.
pub(super) fn read_comment(file: File, path: &Path) -> Result<Option<String>, VideoError> {
    let mut file = file;
    file.rewind()
        .map_err(|e| VideoError::from_io("read", path, e))?;
    let comment = last_comment(&mut BufReader::new(file));
    Ok(comment.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}
