//! In which order the products of a LoRA are made.
//!
//! `y = x W^T + s (x A^T) B^T` and its gradients have two exact orders each way: for y and dx, the LoRA beside the layer
//! or merged into its weight, `W + s B A`; for dA and dB, products with the LoRA's own h and dh, or `dW = dy^T x`
//! projected, `dA = s B^T dW` and `dB = s dW A^T`. Which is cheapest depends on the sizes.

use crate::device::Device;
use crate::tensor::DType;

/// What is chosen: [`LoraOrder::Auto`] takes the cheapest, on a GPU by FLOPs, bytes and launches. A merged weight is
/// stored like the layer's: in 16 bits the storage rounds small updates away, so there only somebody who asks for it gets
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoraOrder {
    #[default]
    Auto,
    /// The LoRA beside the layer, gradients of its own products.
    Factored,
    /// y and dx of a merged weight.
    Merged,
    /// dA and dB of the gradient of the whole weight.
    Projected,
    MergedProjected,
}

impl LoraOrder {
    pub const NAMES: [(&'static str, Self); 5] = [
        ("auto", Self::Auto),
        ("factored", Self::Factored),
        ("merged", Self::Merged),
        ("projected", Self::Projected),
        ("merged-projected", Self::MergedProjected),
    ];

    /// The order of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, order)| *order)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, order)| *order == self);
        named.map_or("auto", |(name, _)| name)
    }

    /// The exact order that [`LoraOrder::Auto`] takes for a layer of these sizes; any other is itself.
    pub fn taken(self, sizes: &LoraSizes, device: &Device, dtype: DType) -> Self {
        match (self, device) {
            (Self::Auto, Device::Cpu) => sizes.order_on_cpu(dtype),
            (Self::Auto, Device::Gpu(_)) => self.exact(sizes, dtype).named(),
            _ => self,
        }
    }

    /// The one exact order that this is for a layer of these sizes on a GPU.
    pub(super) fn exact(self, sizes: &LoraSizes, dtype: DType) -> Order {
        let order = |merged, projected| Order { merged, projected };
        let all = [order(false, false), order(false, true), order(true, false), order(true, true)];
        match self {
            Self::Factored => all[0],
            Self::Projected => all[1],
            Self::Merged => all[2],
            Self::MergedProjected => all[3],
            Self::Auto => {
                let exact = all.into_iter().filter(|order| !order.merged || dtype == DType::F32);
                // The first of equals: the simplest.
                let cheapest = exact.min_by(|a, b| sizes.cost(*a, dtype).total_cmp(&sizes.cost(*b, dtype)));
                cheapest.unwrap_or(all[0])
            }
        }
    }
}

/// One exact order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) struct Order {
    /// Whether y and dx are made of a merged weight.
    pub merged: bool,
    /// Whether dA and dB are made of the gradient of the whole weight.
    pub projected: bool,
}

impl Order {
    fn named(self) -> LoraOrder {
        match (self.merged, self.projected) {
            (false, false) => LoraOrder::Factored,
            (false, true) => LoraOrder::Projected,
            (true, false) => LoraOrder::Merged,
            (true, true) => LoraOrder::MergedProjected,
        }
    }
}

/// `x` `[rows, width]`, `y` `[rows, out]`, and the gradients that are wanted.
#[derive(Clone, Copy, Debug)]
pub struct LoraSizes {
    pub rows: usize,
    pub width: usize,
    pub out: usize,
    pub rank: usize,
    pub wants_dx: bool,
    pub wants_factors: bool,
}

impl LoraSizes {
    /// What [`LoraOrder::Auto`] is on the CPU, whether or not gradients are wanted: so they do not change the result. The
    /// factored branch has six products with a side of `rank`, which reach half the speed of others; the other order has
    /// one for dW, and three as large as the weight.
    pub fn order_on_cpu(&self, dtype: DType) -> LoraOrder {
        let Self { rows, width, out, rank, .. } = *self;
        let factored = 2 * 3 * rows * rank * (width + out);
        let merged = width * out * (rows + 2 * 3 * rank);
        let exact = dtype.master_dtype() == dtype;
        match exact && merged <= factored {
            true => LoraOrder::MergedProjected,
            false => LoraOrder::Factored,
        }
    }

    /// What the LoRA adds to its layer, forward and backward, in bytes that a GPU moves in the same time: each product
    /// costs its FLOPs or its bytes, whichever take longer, and the time that a launch takes.
    fn cost(&self, order: Order, dtype: DType) -> f64 {
        /// FLOPs a byte of an H100: its tensor cores, and FFMA.
        const TENSOR_CORES: f64 = 266.0;
        const FFMA: f64 = 22.0;
        /// Two microseconds.
        const LAUNCH: f64 = 6e6;
        /// What a value of k takes in a product in float of so few tiles that nothing hides the time of its steps.
        const ALONE: f64 = 3e5;
        let work = |m: usize, n: usize, k: usize, values: usize, dtype: DType| {
            let ridge = if dtype == DType::F32 { FFMA } else { TENSOR_CORES };
            (2.0 * m as f64 * n as f64 * k as f64 / ridge).max(values as f64 * dtype.size() as f64)
        };
        let product = |m, n, k, dtype| LAUNCH + work(m, n, k, m * n + m * k + n * k, dtype);
        let Self { rows, width, out, rank, wants_dx, wants_factors } = *self;
        // h = x A^T and dh = dy B; h B^T and dh A join products that are made anyway.
        let (h, dh) = (product(rows, rank, width, dtype), product(rows, rank, out, dtype));
        let joined = |n: usize| work(rows, n, rank, (rows + n) * rank, dtype);
        let mut cost = if order.merged {
            product(out, width, rank, dtype)
        } else {
            h + joined(out) + if wants_dx { dh + joined(width) } else { 0.0 }
        };
        if wants_factors && order.projected {
            cost += product(out, width, rows, dtype);
            // In float, with float copies of the factors, and slices that are added up.
            cost += product(rank, width, out, DType::F32) + product(out, rank, width, DType::F32) + 3.0 * LAUNCH;
            cost += ALONE * out as f64;
        } else if wants_factors {
            // Those of four layers go together.
            let each = |m, n| work(m, n, rows, m * n + (m + n) * rows, dtype);
            cost += each(rank, width) + each(out, rank) + LAUNCH / 2.0;
            cost += if order.merged {
                h + dh
            } else if wants_dx {
                0.0
            } else {
                dh
            };
        }
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(rows: usize, width: usize, out: usize, rank: usize, dtype: DType) -> (bool, bool) {
        let sizes = LoraSizes { rows, width, out, rank, wants_dx: true, wants_factors: true };
        let order = LoraOrder::Auto.exact(&sizes, dtype);
        assert_eq!(order.named().exact(&sizes, dtype), order);
        (order.merged, order.projected)
    }

    /// Stable Diffusion at 512 pixels in batches of 16: with the weight merged, the whole weight's gradient is cheaper where
    /// it has less than 2 rank columns a row, width out / (width + out) < 2 rank.
    #[test]
    fn large_layers_take_the_cheapest_order() {
        assert_eq!(chosen(65536, 320, 320, 128, DType::F32), (true, true));
        assert_eq!(chosen(16384, 640, 640, 128, DType::F32), (true, false));
        assert_eq!(chosen(4096, 1280, 1280, 128, DType::F32), (true, false));
        assert_eq!(chosen(65536, 320, 320, 8, DType::F32), (true, false));
    }

    #[test]
    fn sixteen_bits_are_never_merged_unasked() {
        for (rows, side) in [(65536, 320), (16384, 640), (4096, 1280), (64, 1280)] {
            for rank in [4, 128] {
                for dtype in [DType::Bf16, DType::F16] {
                    assert!(!chosen(rows, side, side, rank, dtype).0, "{rows} {side} {rank}");
                }
            }
        }
        let sizes = LoraSizes { rows: 4096, width: 320, out: 320, rank: 8, wants_dx: true, wants_factors: true };
        assert!(LoraOrder::Merged.exact(&sizes, DType::Bf16).merged);
    }

    /// A launch costs more than such a product.
    #[test]
    fn small_layers_are_factored_where_nothing_can_be_saved() {
        assert_eq!(chosen(16, 32, 32, 4, DType::Bf16), (false, false));
    }

    /// Small layers merge, in the precision that is computed in.
    #[test]
    fn the_cpu_merges_small_layers() {
        let order = |rows, side, dtype| {
            let sizes = LoraSizes { rows, width: side, out: side, rank: 8, wants_dx: false, wants_factors: false };
            sizes.order_on_cpu(dtype)
        };
        assert_eq!(order(4096, 32, DType::F32), LoraOrder::MergedProjected);
        assert_eq!(order(4096, 32, DType::Bf16), LoraOrder::Factored);
        assert_eq!(order(1024, 320, DType::F32), LoraOrder::Factored);
        assert_eq!(order(1, 32, DType::F32), LoraOrder::Factored);
    }

    #[test]
    fn every_order_has_a_name() {
        for (name, order) in LoraOrder::NAMES {
            assert_eq!((LoraOrder::parse(name), order.name()), (Some(order), name));
        }
        assert_eq!(LoraOrder::parse("Factored"), None);
    }
}
