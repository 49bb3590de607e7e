//! Names and shapes of FID's Inception network: of each unit the input and output channels and the kernel.

type Unit = (&'static str, usize, usize, [usize; 2]);

const STEM: [Unit; 5] = [
    ("Conv2d_1a_3x3", 3, 32, [3, 3]),
    ("Conv2d_2a_3x3", 32, 32, [3, 3]),
    ("Conv2d_2b_3x3", 32, 64, [3, 3]),
    ("Conv2d_3b_1x1", 64, 80, [1, 1]),
    ("Conv2d_4a_3x3", 80, 192, [3, 3]),
];

fn a(c: usize, pool: usize) -> Vec<Unit> {
    vec![
        ("branch1x1", c, 64, [1, 1]),
        ("branch5x5_1", c, 48, [1, 1]),
        ("branch5x5_2", 48, 64, [5, 5]),
        ("branch3x3dbl_1", c, 64, [1, 1]),
        ("branch3x3dbl_2", 64, 96, [3, 3]),
        ("branch3x3dbl_3", 96, 96, [3, 3]),
        ("branch_pool", c, pool, [1, 1]),
    ]
}

fn b() -> Vec<Unit> {
    vec![
        ("branch3x3", 288, 384, [3, 3]),
        ("branch3x3dbl_1", 288, 64, [1, 1]),
        ("branch3x3dbl_2", 64, 96, [3, 3]),
        ("branch3x3dbl_3", 96, 96, [3, 3]),
    ]
}

fn c(width: usize) -> Vec<Unit> {
    vec![
        ("branch1x1", 768, 192, [1, 1]),
        ("branch7x7_1", 768, width, [1, 1]),
        ("branch7x7_2", width, width, [1, 7]),
        ("branch7x7_3", width, 192, [7, 1]),
        ("branch7x7dbl_1", 768, width, [1, 1]),
        ("branch7x7dbl_2", width, width, [7, 1]),
        ("branch7x7dbl_3", width, width, [1, 7]),
        ("branch7x7dbl_4", width, width, [7, 1]),
        ("branch7x7dbl_5", width, 192, [1, 7]),
        ("branch_pool", 768, 192, [1, 1]),
    ]
}

fn d() -> Vec<Unit> {
    vec![
        ("branch3x3_1", 768, 192, [1, 1]),
        ("branch3x3_2", 192, 320, [3, 3]),
        ("branch7x7x3_1", 768, 192, [1, 1]),
        ("branch7x7x3_2", 192, 192, [1, 7]),
        ("branch7x7x3_3", 192, 192, [7, 1]),
        ("branch7x7x3_4", 192, 192, [3, 3]),
    ]
}

fn e(c: usize) -> Vec<Unit> {
    vec![
        ("branch1x1", c, 320, [1, 1]),
        ("branch3x3_1", c, 384, [1, 1]),
        ("branch3x3_2a", 384, 384, [1, 3]),
        ("branch3x3_2b", 384, 384, [3, 1]),
        ("branch3x3dbl_1", c, 448, [1, 1]),
        ("branch3x3dbl_2", 448, 384, [3, 3]),
        ("branch3x3dbl_3a", 384, 384, [1, 3]),
        ("branch3x3dbl_3b", 384, 384, [3, 1]),
        ("branch_pool", c, 192, [1, 1]),
    ]
}

pub fn shapes() -> Vec<(String, Vec<usize>)> {
    let blocks = [
        ("Mixed_5b", a(192, 32)),
        ("Mixed_5c", a(256, 64)),
        ("Mixed_5d", a(288, 64)),
        ("Mixed_6a", b()),
        ("Mixed_6b", c(128)),
        ("Mixed_6c", c(160)),
        ("Mixed_6d", c(160)),
        ("Mixed_6e", c(192)),
        ("Mixed_7a", d()),
        ("Mixed_7b", e(1280)),
        ("Mixed_7c", e(2048)),
    ];
    let mut shapes = Vec::new();
    let mut unit = |name: String, (_, c_in, out, [kh, kw]): Unit| {
        shapes.push((format!("{name}.conv.weight"), vec![out, c_in, kh, kw]));
        for vector in ["weight", "bias", "running_mean", "running_var"] {
            shapes.push((format!("{name}.bn.{vector}"), vec![out]));
        }
    };
    STEM.into_iter().for_each(|of| unit(of.0.into(), of));
    for (block, units) in blocks {
        units.into_iter().for_each(|of| unit(format!("{block}.{}", of.0), of));
    }
    shapes.push(("fc.weight".into(), vec![1008, 2048]));
    shapes.push(("fc.bias".into(), vec![1008]));
    shapes
}
