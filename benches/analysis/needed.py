"""How many products of tensor cores (m16n8k16, 2048 multiplications) a block of a kernel must make, from the launch alone."""

import math

import launches

MULTIPLICATIONS = 16 * 8 * 16
# Values of k in a step of tile.h, in 16 bits.
STEP = 32
SIZES = {"tall": (256, 128), "large": (128, 128), "small": (64, 64)}
# Keys or queries that attention takes at a time, and rows of a block: half as many for heads wider than ATTENTION_NARROW.
ATTENTION_TILE, ATTENTION_ROWS, ATTENTION_NARROW = 32, 128, 80
# Products that make [rows, tile] from the head's values, of which there are a multiple of 16, and that sum up such values.
ATTENTION = {"attention_forward": (1, 1), "attention_backward_q": (2, 1), "attention_backward_kv": (2, 2)}


def steps(values):
    return math.ceil(values / STEP) * STEP


def mmas(launch, block):
    """Of one block; none where the kernel has nothing to do with tensor cores."""
    if launch.dtype == "f32":
        return 0
    names = launches.names_of(launch.kernel)
    value = lambda name: launch.arguments[names.index(name)].value
    kind, _, size = launch.kernel.rpartition("_")
    slices, number = 1, block[2]
    if kind.endswith("_split"):
        kind, slices = kind.removesuffix("_split"), value("slices")
        number, slice_of_k = divmod(block[2], slices)
    if kind in ATTENTION:
        along = value("tq") if kind.endswith("kv") else value("tk")
        tiles, size, (dots, sums) = math.ceil(along / ATTENTION_TILE), int(size), ATTENTION[kind]
        if "slices" in names:
            each = math.ceil(tiles / value("slices"))
            tiles = min(each, max(0, tiles - block[2] % value("slices") * each))
        rows = ATTENTION_ROWS if size <= ATTENTION_NARROW else ATTENTION_ROWS // 2
        values = dots * math.ceil(size / 16) * 16 + sums * size
        return rows * tiles * ATTENTION_TILE * values // MULTIPLICATIONS
    if size not in SIZES:
        return 0
    if kind == "matmul_tn_group":
        first = block[1] < value("firsts")
        side = SIZES[size][0]
        tiles = math.ceil(value("m" if first else "m2") / side) * math.ceil(value("n" if first else "n2") / side)
        if block[0] >= tiles:
            return 0
    if kind.startswith("matmul_tn"):
        k = steps(min(value("k") - block[2] * value("k_slice"), value("k_slice")))
    elif kind.startswith("matmul"):
        k = steps(value("k")) + (steps(value("k2")) if "k2" in names else 0)
        k *= value("products") if "products" in names else 1
    elif kind == "conv2d_wgrad":
        pixels = value("n") * value("ho") * value("wo")
        k = steps(min(pixels - block[2] * value("slice"), value("slice")))
    elif kind == "conv2d_dgrad":
        # Pixels of a class meet every stride-th tap from the first that reaches them.
        taps = lambda first, count, before: -(-(count - (first + before) % value("stride")) // value("stride"))
        y, x = divmod(number, value("stride"))
        k = taps(y, value("kh"), value("top")) * taps(x, value("kw"), value("left")) * value("c_out")
    else:
        k = steps(value("kh") * value("kw") * value("c_in"))
    if slices > 1:
        # Slices are whole steps.
        each = math.ceil(k // STEP / slices) * STEP
        k = min(each, max(0, k - slice_of_k * each))
    return math.prod(SIZES[size]) * k // MULTIPLICATIONS
