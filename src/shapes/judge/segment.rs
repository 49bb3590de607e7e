//! Finds regions of one colour in front of the background, each with a soft mask: how much of each pixel it covers.

use super::background::{PIXELS, Plane, Rgb, WIDTH, distance, neighbours, smooth};
use super::colour;

/// One coloured region.
#[derive(Debug, Clone)]
pub(super) struct Region {
    /// The mean of its inner pixels.
    pub colour: Rgb,
    /// The share of each pixel that it covers, with what lies inside it counted as covered.
    pub mask: Vec<f32>,
}

/// A pixel this far from the background belongs to something: well above noise, and about a third of the smallest
/// difference between two named colours.
const CONTRAST: f32 = 34.0;
/// Neighbours that differ by less are of one region; also at most this part of the contrast to the background.
const STEP: f32 = 24.0;
const STEP_SHARE: f32 = 0.25;
/// Blobs of fewer pixels are specks. The smallest shape has about 60.
const SPECK: usize = 14;
/// Inner parts of fewer pixels are edges by chance, where their blob has a larger one.
const MIN_CORE: usize = 4;
/// A pixel this far from all that is known, and this many of them together, are something that was overlooked.
const UNEXPLAINED: f32 = 34.0;
const OVERLOOKED: usize = 9;
/// Edges are this wide at most, in pixels.
const EDGE: usize = 3;

pub(super) fn regions(pixels: &[Rgb], background: &Plane) -> Vec<Region> {
    let smooth = smooth(pixels);
    let contrast: Vec<f32> = (0..PIXELS).map(|i| distance(smooth[i], background.at(i))).collect();
    let foreground: Vec<bool> = contrast.iter().map(|&contrast| contrast > CONTRAST).collect();
    let is_flat = |i: usize| {
        let step = STEP.min(STEP_SHARE * contrast[i]);
        foreground[i] && neighbours(i).all(|n| foreground[n] && distance(smooth[i], smooth[n]) < step)
    };
    let flat: Vec<bool> = (0..PIXELS).map(is_flat).collect();
    let mut regions = Vec::new();
    for blob in components(&foreground) {
        if blob.len() >= SPECK {
            let mut cores = cores(&blob, &flat, &contrast, pixels);
            if let Some(core) = overlooked(&blob, &cores, &smooth, background) {
                cores.iter_mut().for_each(|other| other.pixels.retain(|i| !core.pixels.contains(i)));
                cores.retain(|core| !core.pixels.is_empty());
                cores.push(core);
            }
            regions.extend(split(&blob, cores, &flat, pixels, background));
        }
    }
    regions
}

/// The connected sets of true pixels.
fn components(of: &[bool]) -> Vec<Vec<usize>> {
    let mut seen = vec![false; of.len()];
    let mut components = Vec::new();
    for start in 0..of.len() {
        if !of[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        let mut component = vec![start];
        let mut next = 0;
        while next < component.len() {
            for n in neighbours(component[next]).filter(|&n| of[n]) {
                if !std::mem::replace(&mut seen[n], true) {
                    component.push(n);
                }
            }
            next += 1;
        }
        components.push(component);
    }
    components
}

/// The inner part of one region.
struct Core {
    pixels: Vec<usize>,
    colour: Rgb,
}

/// The inner parts of a blob, one for each colour.
fn cores(blob: &[usize], flat: &[bool], contrast: &[f32], pixels: &[Rgb]) -> Vec<Core> {
    let mut inner = vec![false; PIXELS];
    for &i in blob.iter().filter(|&&i| flat[i]) {
        inner[i] = true;
    }
    let mut found = components(&inner);
    found.sort_by_key(|core| std::cmp::Reverse(core.len()));
    if found.first().is_some_and(|largest| largest.len() >= MIN_CORE) {
        found.retain(|core| core.len() >= MIN_CORE);
    }
    if found.is_empty() {
        let farthest = blob.iter().copied().max_by(|&a, &b| contrast[a].total_cmp(&contrast[b]));
        found.extend(farthest.map(|i| vec![i]));
    }
    let mut cores: Vec<Core> = Vec::new();
    for part in found {
        let colour = mean(&part, pixels);
        // A region may have several inner parts: the arms of a cross, or two halves around something.
        let alike = |core: &&mut Core| colour::nearest(core.colour) == colour::nearest(colour);
        match cores.iter_mut().find(alike) {
            Some(core) => core.pixels.extend(part),
            None => cores.push(Core { pixels: part, colour }),
        }
    }
    cores
}

/// A part that is neither of the colour of a core nor a mixture of one with its surroundings: something small inside
/// something larger, with edges so soft that the two look like one.
fn overlooked(blob: &[usize], cores: &[Core], smooth: &[Rgb], background: &Plane) -> Option<Core> {
    let unexplained = |i: usize| {
        let others = |k: usize| cores[k + 1..].iter().map(|core| core.colour).chain([background.at(i)]);
        let mixtures =
            (0..cores.len()).flat_map(|k| others(k).map(move |other| blend(smooth[i], cores[k].colour, other).1));
        mixtures.fold(f32::INFINITY, f32::min)
    };
    let mut odd = vec![false; PIXELS];
    for &i in blob {
        odd[i] = unexplained(i) > UNEXPLAINED;
    }
    let mut largest = components(&odd).into_iter().max_by_key(Vec::len)?;
    if largest.len() < OVERLOOKED {
        return None;
    }
    // Its middle has its colour; towards the edge it fades.
    largest.sort_by(|&a, &b| unexplained(b).total_cmp(&unexplained(a)));
    largest.truncate(largest.len().div_ceil(3));
    let colour = mean(&largest, smooth);
    Some(Core { pixels: largest, colour })
}

fn mean(of: &[usize], pixels: &[Rgb]) -> Rgb {
    std::array::from_fn(|c| of.iter().map(|&i| pixels[i][c]).sum::<f32>() / of.len() as f32)
}

/// Gives each pixel of a blob, and its rim, to the nearest core; edges are shared by colour.
fn split(blob: &[usize], cores: Vec<Core>, flat: &[bool], pixels: &[Rgb], background: &Plane) -> Vec<Region> {
    let owner = owners(blob, &cores);
    let mut masks = vec![vec![0.0f32; PIXELS]; cores.len()];
    for i in 0..PIXELS {
        let Some(own) = owner[i] else { continue };
        if flat[i] {
            masks[own][i] = 1.0;
            continue;
        }
        // What the edge is shared with: the background, or another region that is near.
        let (mut share, mut other) = blend(pixels[i], cores[own].colour, background.at(i));
        let mut partner = None;
        for near in 0..cores.len() {
            if near != own && is_near(i, near, &owner) {
                let (share_near, off) = blend(pixels[i], cores[own].colour, cores[near].colour);
                if off < other {
                    (share, other, partner) = (share_near, off, Some(near));
                }
            }
        }
        masks[own][i] += share;
        if let Some(partner) = partner {
            masks[partner][i] += 1.0 - share;
        }
    }
    let finish = |(core, mut mask): (Core, Vec<f32>)| {
        fill(&mut mask, pixels, background);
        Region { colour: core.colour, mask }
    };
    cores.into_iter().zip(masks).map(finish).collect()
}

/// The core nearest to each pixel of the blob and of a rim of two pixels around it, where edges fade out.
fn owners(blob: &[usize], cores: &[Core]) -> Vec<Option<usize>> {
    let mut owner = vec![None; PIXELS];
    let mut allowed = vec![false; PIXELS];
    for &i in blob {
        allowed[i] = true;
    }
    let mut rim = blob.to_vec();
    for _ in 0..2 {
        rim = rim.iter().flat_map(|&i| neighbours(i)).filter(|&n| !std::mem::replace(&mut allowed[n], true)).collect();
    }
    let mut front = Vec::new();
    for (k, core) in cores.iter().enumerate() {
        for &i in &core.pixels {
            owner[i] = Some(k);
            front.push(i);
        }
    }
    while !front.is_empty() {
        let mut next = Vec::new();
        for i in front {
            for n in neighbours(i) {
                if allowed[n] && owner[n].is_none() {
                    owner[n] = owner[i];
                    next.push(n);
                }
            }
        }
        front = next;
    }
    owner
}

fn is_near(i: usize, region: usize, owner: &[Option<usize>]) -> bool {
    let (x, y) = (i % WIDTH, i / WIDTH);
    let around = |v: usize| v.saturating_sub(EDGE)..(v + EDGE + 1).min(WIDTH);
    around(y).any(|y| around(x).any(|x| owner[y * WIDTH + x] == Some(region)))
}

/// The share of `one` in a mixture with `other`, and how far the colour is from any such mixture.
fn blend(colour: Rgb, one: Rgb, other: Rgb) -> (f32, f32) {
    let [mut dot, mut length] = [0.0; 2];
    for c in 0..3 {
        dot += (colour[c] - other[c]) * (one[c] - other[c]);
        length += (one[c] - other[c]) * (one[c] - other[c]);
    }
    let share = (dot / length.max(1.0)).clamp(0.0, 1.0);
    let mixture = std::array::from_fn(|c| other[c] + share * (one[c] - other[c]));
    (share, distance(colour, mixture))
}

/// Covers what lies inside a region and is something else; a hole that shows the background stays. The edge between a
/// colour and its opposite passes through gray and may look like background, so that half is enough.
fn fill(mask: &mut [f32], pixels: &[Rgb], background: &Plane) {
    let open: Vec<bool> = mask.iter().map(|&share| share < 0.5).collect();
    for hole in components(&open) {
        let touches_edge = hole.iter().any(|&i| neighbours(i).count() < 4);
        // Before smoothing: a narrow hole is full of its own edge after it.
        let taken = hole.iter().filter(|&&i| distance(pixels[i], background.at(i)) > CONTRAST);
        if !touches_edge && 2 * taken.count() > hole.len() {
            for i in hole {
                mask[i] = 1.0;
                // The soft edge between the two is inside as well.
                for n in neighbours(i) {
                    mask[n] = 1.0;
                }
            }
        }
    }
}
