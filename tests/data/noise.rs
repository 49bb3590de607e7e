//! Noise of many resolutions, against PyTorch (tests/generate_fixtures/pyramid.py).

use std::path::Path;

use selma::data::noise::add_levels;
use selma::formats::safetensors::Safetensors;

#[test]
fn levels_are_added_as_the_scripts_add_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pyramid.safetensors");
    let file = Safetensors::open(&path).unwrap();
    let read = |name: &str| file.tensor(name).unwrap();
    let (noise, expected) = (read("noise"), read("result"));
    let levels = (0..3).map(|i| {
        let level = read(&format!("level.{i}"));
        ([level.shape()[0], level.shape()[1]], level.data::<f32>().to_vec())
    });
    let mut values = noise.data::<f32>().to_vec();
    let &[h, w, c] = noise.shape() else { panic!("{noise:?}") };
    add_levels(&mut values, [h, w, c], levels, file.metadata()["discount"].parse().unwrap());
    // Some ten roundings of values up to 4.
    for (i, (got, expected)) in values.iter().zip(expected.data::<f32>()).enumerate() {
        assert!((got - expected).abs() <= 4e-6, "at {i}: {got}, PyTorch has {expected}");
    }
}
