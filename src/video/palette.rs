//! At most 256 colours for a whole clip.

use std::collections::HashMap;

/// Colours a GIF frame may have.
const MAX_COLOURS: usize = 256;
/// Bits kept of each channel when there are too many colours to list.
const BITS: u32 = 6;
/// Rounds of moving each colour to the mean of what it stands for; the error hardly falls after a few.
const REFINEMENTS: usize = 4;

/// Ordered-dither thresholds (Bayer, 4x4). Fixed to the place, so that still areas stay still.
const BAYER: [[i32; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];

/// Colours of equal leading bits: their number and the sums of their channels.
#[derive(Clone, Copy)]
struct Cell {
    count: u64,
    sums: [u64; 3],
}

impl Cell {
    fn mean(&self) -> [f64; 3] {
        self.sums.map(|sum| sum as f64 / self.count as f64)
    }
}

/// A palette and the way into it.
pub(super) struct Palette {
    /// Empty if the clip has so few colours that all are kept.
    colours: Vec<[f64; 3]>,
    /// For each cell of the colour cube the palette colour, found when it is first asked for.
    lookup: Vec<Option<[u8; 3]>>,
    /// Height of the dither pattern, in levels of a channel.
    dither: i32,
}

impl Palette {
    /// Chooses the colours for pixels counted by colour. Few colours are kept exactly.
    pub(super) fn of(histogram: &HashMap<[u8; 3], u64>) -> Self {
        if histogram.len() <= MAX_COLOURS {
            return Self {
                colours: Vec::new(),
                lookup: Vec::new(),
                dither: 0,
            };
        }
        let mut cube = HashMap::new();
        for (colour, &count) in histogram {
            let cell = cube.entry(cell_index(*colour)).or_insert(Cell {
                count: 0,
                sums: [0; 3],
            });
            cell.count += count;
            for (sum, &value) in cell.sums.iter_mut().zip(colour) {
                *sum += u64::from(value) * count;
            }
        }
        let mut cells: Vec<(usize, Cell)> = cube.into_iter().collect();
        // A hash map has no order; the palette must not depend on it.
        cells.sort_by_key(|(index, _)| *index);
        let cells: Vec<Cell> = cells.into_iter().map(|(_, cell)| cell).collect();
        let colours = refine(&cells, median_cut(cells.clone()));
        Self {
            dither: spacing(&cells, &colours),
            lookup: vec![None; 1 << (3 * BITS)],
            colours,
        }
    }

    /// The palette colour for a pixel at column `x`, row `y`.
    pub(super) fn nearest(&mut self, colour: [u8; 3], x: u32, y: u32) -> [u8; 3] {
        if self.colours.is_empty() {
            return colour;
        }
        let threshold = BAYER[(y % 4) as usize][(x % 4) as usize] * 2 - 15;
        let offset = threshold * self.dither / 32;
        let shifted = colour.map(|v| (i32::from(v) + offset).clamp(0, 255) as u8);
        let cell = cell_index(shifted);
        *self.lookup[cell].get_or_insert_with(|| {
            let nearest = nearest_of(&self.colours, cell_centre(cell));
            self.colours[nearest].map(|v| v.round() as u8)
        })
    }
}

fn cell_index(colour: [u8; 3]) -> usize {
    colour
        .iter()
        .fold(0, |index, &v| index << BITS | usize::from(v >> (8 - BITS)))
}

/// Middle of a cell of the colour cube.
fn cell_centre(index: usize) -> [f64; 3] {
    let channel = |shift: u32| {
        let level = (index >> (shift * BITS)) & ((1 << BITS) - 1);
        (level as f64 + 0.5) * f64::from(1u32 << (8 - BITS))
    };
    [channel(2), channel(1), channel(0)]
}

/// Mean and summed squared distance from it along each channel.
fn spread(cells: &[Cell]) -> ([f64; 3], [f64; 3]) {
    let count: f64 = cells.iter().map(|c| c.count as f64).sum();
    let mut mean = [0.0; 3];
    for cell in cells {
        for (m, sum) in mean.iter_mut().zip(cell.sums) {
            *m += sum as f64 / count;
        }
    }
    let mut squares = [0.0; 3];
    for cell in cells {
        for ((s, value), m) in squares.iter_mut().zip(cell.mean()).zip(mean) {
            *s += (value - m).powi(2) * cell.count as f64;
        }
    }
    (mean, squares)
}

/// Splits the box of largest error at its mean, along its widest channel, until there are enough boxes.
fn median_cut(cells: Vec<Cell>) -> Vec<[f64; 3]> {
    struct Box {
        cells: Vec<Cell>,
        mean: [f64; 3],
        squares: [f64; 3],
    }
    let make = |cells: Vec<Cell>| {
        let (mean, squares) = spread(&cells);
        Box {
            cells,
            mean,
            squares,
        }
    };
    let error = |b: &Box| -> f64 { b.squares.iter().sum() };
    let mut boxes = vec![make(cells)];
    while boxes.len() < MAX_COLOURS {
        let worst = (0..boxes.len()).max_by(|&i, &j| error(&boxes[i]).total_cmp(&error(&boxes[j])));
        let Some(worst) = worst.filter(|&i| error(&boxes[i]) > 0.0) else {
            break;
        };
        let parent = boxes.swap_remove(worst);
        let axis = (0..3)
            .max_by(|&i, &j| parent.squares[i].total_cmp(&parent.squares[j]))
            .unwrap_or(0);
        let (low, high): (Vec<Cell>, Vec<Cell>) = parent
            .cells
            .into_iter()
            .partition(|cell| cell.mean()[axis] <= parent.mean[axis]);
        // Rounding can leave one side empty; such a box holds one colour in truth.
        if low.is_empty() || high.is_empty() {
            boxes.push(Box {
                cells: [low, high].concat(),
                mean: parent.mean,
                squares: [0.0; 3],
            });
            continue;
        }
        boxes.push(make(low));
        boxes.push(make(high));
    }
    boxes.iter().map(|b| b.mean).collect()
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    // The eye weighs green most and blue least.
    const WEIGHTS: [f64; 3] = [2.0, 4.0, 1.0];
    WEIGHTS
        .iter()
        .zip(a.iter().zip(b))
        .map(|(w, (x, y))| w * (x - y).powi(2))
        .sum()
}

fn nearest_of(colours: &[[f64; 3]], colour: [f64; 3]) -> usize {
    (0..colours.len())
        .min_by(|&i, &j| distance(colours[i], colour).total_cmp(&distance(colours[j], colour)))
        .unwrap_or(0)
}

/// Moves every colour to the mean of the cells nearest to it, a few times.
fn refine(cells: &[Cell], mut colours: Vec<[f64; 3]>) -> Vec<[f64; 3]> {
    for _ in 0..REFINEMENTS {
        let mut groups: Vec<Vec<Cell>> = vec![Vec::new(); colours.len()];
        for cell in cells {
            groups[nearest_of(&colours, cell.mean())].push(*cell);
        }
        for (colour, group) in colours.iter_mut().zip(&groups) {
            if !group.is_empty() {
                *colour = spread(group).0;
            }
        }
    }
    colours
}

/// Height of the dither pattern: the step between neighbouring colours along one channel.
///
/// An even step makes an error of `step / sqrt(12)`, root mean square, which is measured here and turned around.
fn spacing(cells: &[Cell], colours: &[[f64; 3]]) -> i32 {
    let (mut squares, mut count) = (0.0, 0.0);
    for cell in cells {
        let mean = cell.mean();
        let colour = colours[nearest_of(colours, mean)];
        let distance: f64 = mean.iter().zip(colour).map(|(a, b)| (a - b).powi(2)).sum();
        squares += distance / 3.0 * cell.count as f64;
        count += cell.count as f64;
    }
    let step = (squares / count * 12.0).sqrt().round() as i32;
    // Below the width of a cell the pattern would vanish in it; far above, it would be seen.
    step.clamp(1 << (8 - BITS), 24)
}
